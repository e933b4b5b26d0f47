"""One shard from where it lies to an open file: whole, its size and sha256 checked, tried again where that can help.

source + name -> address -> chunks -> file, sha256

not there, or not to be had (kws.transport)  a UsageError, which names the shard
another size or sha256 than the index has    once more from the start, then a DamagedError
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import select
import shlex
import subprocess
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from kws import transport
from kws.data.index import Shard
from kws.errors import UsageError
from kws.transport import ChangedError, Opened, Patience

_SIGNED_FOR_S = 3600
_S3_SETTINGS = "AWS_PROFILE, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"


class DamagedError(UsageError):
    """Content that is not what was packed: the clip or shard is of no use however often it is read.

    What `data.on_bad = skip` passes over; never raised for transport.
    """


class StoppedError(Exception):
    """Nobody wants the shard any more."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a corpus' shards lie. `root`: the folder of its index. `base`, as index.json's "source" has it:

    ""                        below `root`
    a folder                  below that one (relative to `root`)
    http://, https://, s3://  below that address, or in the place of {} in it: https://host/{}?token=...
    pipe:COMMAND              what the shell command prints, with the shard's name, quoted, for each {} in it:
                              pipe:ssh store cat /corpus/{}
    Raises UsageError for any other.
    """

    root: Path
    base: str = ""

    def __post_init__(self) -> None:
        if self.kind == "pipe" and "{}" not in self.base:
            raise UsageError(
                f"{self._index}: source {self.base!r}: no {{}} for the shard's name; such as pipe:cat /x/{{}}"
            )
        if self.kind == "folder" and "://" in self.base:
            raise UsageError(
                f"{self._index}: source {self.base!r}: wanted a folder, http://, https://, s3:// or pipe:COMMAND"
            )

    @property
    def kind(self) -> Literal["folder", "http", "s3", "pipe"]:
        """How the shards are reached."""
        scheme = self.base.partition(":")[0]
        if scheme == "pipe":
            return "pipe"
        if "://" in self.base and scheme in ("http", "https", "s3"):
            return "s3" if scheme == "s3" else "http"
        return "folder"

    @property
    def _index(self) -> Path:
        return self.root / "index" / "index.json"

    def address(self, name: str) -> str:
        """Of one shard: a path, a URL or a shell command."""
        if self.kind == "folder":
            return str(self.root / self.base / name)
        if self.kind == "pipe":
            return self.base.removeprefix("pipe:").replace("{}", shlex.quote(name))
        quoted = urllib.parse.quote(name) if self.kind == "http" else name
        return self.base.replace("{}", quoted) if "{}" in self.base else f"{self.base.rstrip('/')}/{quoted}"

    def shown(self, name: str) -> str:
        """The address as messages have it."""
        return transport.shown(self.address(name)) if self.kind == "http" else self.address(name)

    def open(self, name: str, offset: int, timeout_s: float) -> contextlib.AbstractContextManager[Opened]:
        """The shard's bytes, from `offset` on where the source can, else from 0. Raises OSError, HTTPException."""
        address = self.address(name)
        if self.kind == "http":
            return transport.open_http(address, offset, timeout_s)
        return {"folder": _folder, "s3": _s3, "pipe": _pipe}[self.kind](address, offset, timeout_s)


def fetch(
    source: Source, shard: Shard, file: BinaryIO, patience: Patience, stop: threading.Event | None = None
) -> None:
    """Writes the shard to `file`, from its start. Raises UsageError (transport, disk), DamagedError (other content).

    StoppedError soon after `stop` is set.
    """
    stop, shown = stop or threading.Event(), source.shown(shard.name)
    for last in (False, True):
        try:
            _download(source, shard, _Copy(file, shard, stop), patience, stop)
            return
        except ChangedError as error:
            if last:
                raise DamagedError(
                    f"{shown}: {error}; copy or pack shard {shard.name} again, or make its index anew"
                ) from error


class _Copy(transport.Target):
    """The part of a shard that is there: in the file, and in the checksum."""

    def __init__(self, file: BinaryIO, shard: Shard, stop: threading.Event) -> None:
        super().__init__(file, shard.bytes, "the index")
        self._shard, self._stop = shard, stop
        self.restart()

    def restart(self) -> None:
        super().restart()
        self._sha256 = hashlib.sha256()

    def take(self, opened: Opened) -> None:
        super().take(opened)
        if self._sha256.hexdigest() != self._shard.sha256:
            raise ChangedError("sha256 differs from the index")

    def write(self, chunk: memoryview) -> None:
        if self._stop.is_set():
            raise StoppedError
        super().write(chunk)
        self._sha256.update(chunk)


def _download(source: Source, shard: Shard, copy: _Copy, patience: Patience, stop: threading.Event) -> None:
    def wait(delay_s: float, fault: str) -> None:
        if stop.wait(delay_s):
            raise StoppedError

    try:
        transport.download(
            lambda offset: source.open(shard.name, offset, patience.timeout_s), copy, patience.delays_s, wait
        )
    except transport.UnreachableError as error:
        check = f" check {_S3_SETTINGS}," if source.kind == "s3" else ""
        raise UsageError(
            f"{source.shown(shard.name)}: {error}; shard {shard.name} cannot be fetched:{check} "
            f'put it there, or mend "source" in {source.root / "index" / "index.json"}'
        ) from error


@contextlib.contextmanager
def _folder(path: str, offset: int, timeout_s: float) -> Iterator[Opened]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (Path.open has no unbuffered type)
        file.seek(offset)
        yield Opened(offset, os.fstat(file.fileno()).st_size, lambda buffer: file.readinto(buffer) or 0)


@contextlib.contextmanager
def _s3(address: str, offset: int, timeout_s: float) -> Iterator[Opened]:
    """Through a signed http address: one way of reading, resuming and failing for both.

    Credentials, region and endpoint are those that s3fs finds (AWS_*, ~/.aws, FSSPEC_S3_*); without any, unsigned.
    """
    with transport.open_http(_sign(address), offset, timeout_s) as opened:
        yield opened


def _sign(address: str) -> str:
    try:
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

        signed = _s3_filesystem(os.getpid()).sign(address, expiration=_SIGNED_FOR_S)
    except ImportError as error:
        raise UsageError("s3:// needs the package s3fs; type pip install s3fs (or 'kws[s3]')") from error
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"{address}: {error}; check {_S3_SETTINGS}") from error
    return str(signed)


@functools.cache
def _s3_filesystem(pid: int) -> Any:
    """With credentials if there are any. One a process: its event loop does not survive a fork."""
    import s3fs  # type: ignore[import-untyped]
    from botocore.exceptions import NoCredentialsError

    # Signature 4, because servers other than Amazon's do not all take botocore's default for signed addresses.
    known = s3fs.S3FileSystem(skip_instance_cache=True, config_kwargs={"signature_version": "s3v4"})
    try:
        known.sign("s3://any/thing")
    except NoCredentialsError:
        return s3fs.S3FileSystem(skip_instance_cache=True, anon=True)
    return known


@contextlib.contextmanager
def _pipe(command: str, offset: int, timeout_s: float) -> Iterator[Opened]:
    with (
        tempfile.TemporaryFile() as said,
        # In a session of its own, so that all of a pipeline can be ended.
        subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        ) as process,
    ):
        try:
            yield Opened(0, None, functools.partial(_read_pipe, process, said, timeout_s))
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)


def _read_pipe(process: subprocess.Popen[bytes], said: BinaryIO, timeout_s: float, buffer: memoryview) -> int:
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        raise TimeoutError(f"nothing came for {timeout_s:g} s")
    count = os.readv(process.stdout.fileno(), [buffer])
    if count:
        return count
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    if process.returncode:
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
        fault = FileNotFoundError if process.returncode in (126, 127) else OSError  # no such command
        raise fault(f"exit code {process.returncode}: {last or 'nothing on stderr'}")
    return 0
