"""stdout and stderr as a shell or a scheduler may leave them: closed, full, without a reader, in another encoding.

kws ... >&-  2>&-        descriptors 0, 1, 2 are opened on /dev/null, so that no file of ours gets their numbers
kws train ... | head     the reader ends: training continues without output; other commands end
> /dev/full              the error names stdout
LC_ALL=C, latin-1        kws starts again in Python's UTF-8 mode: file names and files are UTF-8 everywhere
"""

from __future__ import annotations

import contextlib
import io
import locale
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_STARTED_AGAIN = "KWS_UTF8"


class Output:
    """A text stream whose failing `write` names it and does not fail twice.

    lasting: a failure is not raised at all; what is written after it is dropped. `failed`: the first error, or None.
    """

    def __init__(self, stream: Any, name: str, lasting: bool) -> None:
        self._stream, self._name, self._lasting = stream, name, lasting
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        """Writes the text, or drops it after a failure."""
        with self._noting_failure():
            if not self.failed:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what was written."""
        with self._noting_failure():
            if not self.failed:
                self._stream.flush()

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self._name
            self.failed = error
            self._discard_rest()
            if not self._lasting:
                raise
            if self._name == "stdout":
                print(f"note: stdout: {error.strerror}; what is printed from now on is lost", file=sys.stderr)

    def _discard_rest(self) -> None:
        """Python flushes the stream when it exits, and a second failure there would change the exit code."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def standard_streams(lasting: bool) -> Iterator[None]:
    """Replaces sys.stdout and sys.stderr in the with block. lasting: a stdout that fails is no error (training)."""
    before = sys.stdout, sys.stderr
    _open_closed_descriptors()
    out, err = (stream or Path(os.devnull).open("w", encoding="utf-8") for stream in before)  # noqa: SIM115
    for stream in (out, err):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold any bytes
    sys.stdout, sys.stderr = Output(out, "stdout", lasting), Output(err, "stderr", lasting=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Opens those of 0, 1 and 2 that are closed: the next file would get the number, and output would go into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:  # a lower one is free as well
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def use_utf8() -> None:
    """Starts this command again in UTF-8 mode, where the locale or PYTHONUTF8=0 gives file names another encoding.

    Only for the command itself. What the terminal expects stays: PYTHONIOENCODING is set to the encoding of stdout.
    """
    if sys.flags.utf8_mode or (sys.getfilesystemencoding() == "utf-8" and _locale_is_utf8()):
        return
    if os.environ.get(_STARTED_AGAIN) or not sys.executable or not sys.orig_argv[1:]:
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    environment = os.environ | {_STARTED_AGAIN: "1", "PYTHONUTF8": "1"}
    environment.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _locale_is_utf8() -> bool:
    return locale.getpreferredencoding(False).lower().replace("-", "") == "utf8"
