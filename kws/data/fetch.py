"""One shard from where it lies to an open file: whole, its size and sha256 checked, tried again where that can help.

source + name -> address -> chunks -> file, sha256

404, 403, 401 and the like                   a UsageError at once
no answer, reset, 5xx, short read            again after a growing delay, where it broke off if the server can
another size or sha256 than the index has    once more from the start, then a DamagedError
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.client
import os
import re
import select
import shlex
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from kws.data.index import Shard
from kws.errors import UsageError

_CHUNK_BYTES = 1 << 20
_AGAIN = {408, 425, 429}  # beside 5xx: the HTTP answers that may be another one in a moment
_SIGNED_FOR_S = 3600
_S3_SETTINGS = "AWS_PROFILE, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"


class DamagedError(UsageError):
    """Content that is not what was packed: the clip or shard is of no use however often it is read.

    What `data.on_bad = skip` passes over; never raised for transport.
    """


class StoppedError(Exception):
    """Nobody wants the shard any more."""


class _ChangedError(Exception):
    """The source has something else than the index."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a source may be silent, and how long to wait before each further try, in seconds."""

    timeout_s: float = 20.0
    delays_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)


class _Opened(NamedTuple):
    """A shard being read: the byte it starts at, its whole size (None: not said), and what fills a buffer."""

    start: int
    size: int | None
    readinto: Callable[[memoryview], int]


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
        """The address as messages have it: without passwords and signatures."""
        if self.kind != "http":
            return self.address(name)
        parts = urllib.parse.urlsplit(self.address(name))
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def open(self, name: str, offset: int, timeout_s: float) -> contextlib.AbstractContextManager[_Opened]:
        """The shard's bytes, from `offset` on where the source can, else from 0. Raises OSError, HTTPException."""
        openers = {"folder": _folder, "http": _http, "s3": _s3, "pipe": _pipe}
        return openers[self.kind](self.address(name), offset, timeout_s)


def fetch(
    source: Source, shard: Shard, file: BinaryIO, patience: Patience, stop: threading.Event | None = None
) -> None:
    """Writes the shard to `file`, from its start. Raises UsageError (transport, disk), DamagedError (other content).

    StoppedError soon after `stop` is set.
    """
    stop, shown = stop or threading.Event(), source.shown(shard.name)
    for last in (False, True):
        try:
            _download(source, shard, _Target(file), patience, stop)
            return
        except _ChangedError as error:
            if last:
                raise DamagedError(
                    f"{shown}: {error}; copy or pack shard {shard.name} again, or make its index anew"
                ) from error


class _Target:
    """The part of a shard that is there: written to the file, and in the checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self._sha256 = file, 0, hashlib.sha256()
        self._restart()

    def _restart(self) -> None:
        self._file.seek(0)
        self.bytes, self._sha256 = 0, hashlib.sha256()

    def take(self, opened: _Opened, shard: Shard, stop: threading.Event) -> None:
        """All that is missing. Raises OSError where the source ends too early."""
        if opened.size not in (None, shard.bytes):
            raise _ChangedError(f"{opened.size} bytes, the index has {shard.bytes}")
        if opened.start != self.bytes:
            self._restart()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while count := opened.readinto(buffer):
            if stop.is_set():
                raise StoppedError
            if self.bytes + count > shard.bytes:
                raise _ChangedError(f"more than {shard.bytes} bytes, which the index has")
            self._write(buffer[:count])
        if self.bytes < shard.bytes:
            raise OSError(f"ends after {self.bytes} of {shard.bytes} bytes")

    def _write(self, chunk: memoryview) -> None:
        try:
            self._file.write(chunk)
        except OSError as error:  # not the source's fault: trying again would not help
            raise UsageError(f"{self._file.name}: cannot be written ({error.strerror}); make room there") from error
        self._sha256.update(chunk)
        self.bytes += len(chunk)

    def check(self, shard: Shard) -> None:
        """Raises _ChangedError where the bytes are others than were indexed."""
        if self._sha256.hexdigest() != shard.sha256:
            raise _ChangedError("sha256 differs from the index")


def _download(source: Source, shard: Shard, target: _Target, patience: Patience, stop: threading.Event) -> None:
    for number, delay in enumerate((*patience.delays_s, None), start=1):
        try:
            with source.open(shard.name, target.bytes, patience.timeout_s) as opened:
                target.take(opened, shard, stop)
            target.check(shard)
            return
        except (OSError, http.client.HTTPException) as error:
            fault = _why(error)
            if _is_final(error) or delay is None:
                tried = f", tried {number} times" if number > 1 else ""
                check = f" check {_S3_SETTINGS}," if source.kind == "s3" else ""
                raise UsageError(
                    f"{source.shown(shard.name)}: {fault}{tried}; shard {shard.name} cannot be fetched:{check} "
                    f'put it there, or mend "source" in {source.root / "index" / "index.json"}'
                ) from error
            if stop.wait(delay):
                raise StoppedError from error
    raise AssertionError("the last try returns or raises")


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error or type(error).__name__)


def _is_final(error: Exception) -> bool:
    """Whether the same would come of another try."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in _AGAIN
    reason = getattr(error, "reason", error)  # of a URLError
    if isinstance(reason, ssl.SSLCertVerificationError | http.client.InvalidURL):
        return True
    return isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)


@contextlib.contextmanager
def _folder(path: str, offset: int, timeout_s: float) -> Iterator[_Opened]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (Path.open has no unbuffered type)
        file.seek(offset)
        yield _Opened(offset, os.fstat(file.fileno()).st_size, lambda buffer: file.readinto(buffer) or 0)


@contextlib.contextmanager
def _http(address: str, offset: int, timeout_s: float) -> Iterator[_Opened]:
    headers = {"User-Agent": "kws"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        raise _ChangedError(f"fewer than {offset} bytes") from error
    with answer:
        start, length = 0, answer.headers.get("Content-Length")
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            said = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            start = int(said[1]) if said else -1
            if start != offset:
                raise OSError(f"another range than asked for: {answer.headers.get('Content-Range')}")
        yield _Opened(start, start + int(length) if length else None, functools.partial(_read_http, answer))


def _read_http(answer: Any, buffer: memoryview) -> int:
    """What is there by now: HTTPResponse.readinto fills the whole buffer, and a fault meanwhile loses what had come."""
    chunk = answer.read1(len(buffer))
    buffer[: len(chunk)] = chunk
    return len(chunk)


@contextlib.contextmanager
def _s3(address: str, offset: int, timeout_s: float) -> Iterator[_Opened]:
    """Through a signed http address: one way of reading, resuming and failing for both.

    Credentials, region and endpoint are those that s3fs finds (AWS_*, ~/.aws, FSSPEC_S3_*); without any, unsigned.
    """
    with _http(_sign(address), offset, timeout_s) as opened:
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
def _pipe(command: str, offset: int, timeout_s: float) -> Iterator[_Opened]:
    with (
        tempfile.TemporaryFile() as said,
        # In a session of its own, so that all of a pipeline can be ended.
        subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        ) as process,
    ):
        try:
            yield _Opened(0, None, functools.partial(_read_pipe, process, said, timeout_s))
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
