"""Copies one shard from its source (folder, http(s), S3 or a shell command) to an open file and checks the copy.

source + shard name -> address -> chunks -> file and sha256

missing or unreachable, after the retries of kws/transport.py   UsageError that names the shard
size or sha256 differs from the index                           one fresh try, then DamagedError
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
from kws.transport import ChangedError, Response, RetryPolicy

_SIGNED_FOR_S = 3600
_S3_SETTINGS = "AWS_PROFILE, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL"


class DamagedError(UsageError):
    """The content of a clip or shard is not what was packed; reading it again would not help.

    `data.on_bad = skip` skips such clips. Never raised for faults of the network or of a disk.
    """


class FetchCancelledError(Exception):
    """The caller requested the end of the fetch before the shard was complete."""


@dataclasses.dataclass(frozen=True)
class ShardSource:
    """Where the shards of a corpus are stored. `root`: the folder of its index. `base`: "source" of index.json:

    ""                        the shards are in `root`
    a folder                  the shards are in that folder (relative to `root`)
    http://, https://, s3://  the shard's name follows this address, or replaces {} in it: https://host/{}?token=...
    pipe:COMMAND              the shard is the output of the shell command, in which the shard's name, quoted, replaces
                              each {}: pipe:ssh store cat /corpus/{}
    Raises UsageError for any other base.
    """

    root: Path
    base: str = ""

    def __post_init__(self) -> None:
        if self.kind == "pipe" and "{}" not in self.base:
            raise UsageError(
                f"{self._index}: source {self.base!r}: no {{}} for the shard's name; wanted such as pipe:cat /x/{{}}"
            )
        if self.kind == "folder" and "://" in self.base:
            raise UsageError(
                f"{self._index}: source {self.base!r}: wanted a folder, http://, https://, s3:// or pipe:COMMAND"
            )

    @property
    def kind(self) -> Literal["folder", "http", "s3", "pipe"]:
        """How the shards are read."""
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
        """Returns the address of one shard: a path, a URL or a shell command."""
        if self.kind == "folder":
            return str(self.root / self.base / name)
        if self.kind == "pipe":
            return self.base.removeprefix("pipe:").replace("{}", shlex.quote(name))
        quoted = urllib.parse.quote(name) if self.kind == "http" else name
        return self.base.replace("{}", quoted) if "{}" in self.base else f"{self.base.rstrip('/')}/{quoted}"

    def shown(self, name: str) -> str:
        """Returns the address for messages: without passwords and signatures."""
        return transport.redacted_url(self.address(name)) if self.kind == "http" else self.address(name)

    def open(self, name: str, offset: int, timeout_s: float) -> contextlib.AbstractContextManager[Response]:
        """Opens the shard at byte `offset` where the source supports that, else at 0. Raises OSError, HTTPException."""
        address = self.address(name)
        if self.kind == "http":
            return transport.open_http(address, offset, timeout_s)
        return {"folder": _folder, "s3": _s3, "pipe": _pipe}[self.kind](address, offset, timeout_s)


def fetch_shard(
    source: ShardSource, shard: Shard, file: BinaryIO, retry: RetryPolicy, stop: threading.Event | None = None
) -> None:
    """Writes the shard to `file`, from the file's start, and compares size and sha256 with the index.

    Raises UsageError (source or disk failed), DamagedError (other content) and, soon after `stop` is set,
    FetchCancelledError.
    """
    stop, shown = stop or threading.Event(), source.shown(shard.name)
    for is_last_try in (False, True):
        try:
            _download(source, shard, _ShardTarget(file, shard, stop), retry, stop)
            return
        except ChangedError as error:
            if is_last_try:
                raise DamagedError(
                    f"{shown}: {error}; copy or pack shard {shard.name} again, or index its source again with kws index"
                ) from error


class _ShardTarget(transport.DownloadTarget):
    """The part of a shard that has been received: written to the file and added to the checksum."""

    def __init__(self, file: BinaryIO, shard: Shard, stop: threading.Event) -> None:
        super().__init__(file, shard.bytes, "the index")
        self._shard, self._stop = shard, stop
        self.restart()

    def restart(self) -> None:
        super().restart()
        self._sha256 = hashlib.sha256()

    def receive(self, response: Response) -> None:
        super().receive(response)
        if self._sha256.hexdigest() != self._shard.sha256:
            raise ChangedError("sha256 differs from the index")

    def write(self, chunk: memoryview) -> None:
        if self._stop.is_set():
            raise FetchCancelledError
        super().write(chunk)
        self._sha256.update(chunk)


def _download(
    source: ShardSource, shard: Shard, target: _ShardTarget, retry: RetryPolicy, stop: threading.Event
) -> None:
    def wait(delay_s: float, fault: str) -> None:
        if stop.wait(delay_s):
            raise FetchCancelledError

    try:
        transport.download(
            lambda offset: source.open(shard.name, offset, retry.timeout_s), target, retry.delays_s, wait
        )
    except transport.UnreachableError as error:
        check = f" check {_S3_SETTINGS}," if source.kind == "s3" else ""
        raise UsageError(
            f"{source.shown(shard.name)}: {error}; shard {shard.name} cannot be fetched:{check} "
            f'put it there, or correct "source" in {source.root / "index" / "index.json"}'
        ) from error


@contextlib.contextmanager
def _folder(path: str, offset: int, timeout_s: float) -> Iterator[Response]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (Path.open has no unbuffered type)
        file.seek(offset)
        yield Response(offset, os.fstat(file.fileno()).st_size, lambda buffer: file.readinto(buffer) or 0)


@contextlib.contextmanager
def _s3(address: str, offset: int, timeout_s: float) -> Iterator[Response]:
    """Reads an S3 object through a signed http address, so that S3 and http share one way to resume and to fail.

    Credentials, region and endpoint are those that s3fs finds (AWS_*, ~/.aws, FSSPEC_S3_*); the request is unsigned
    where there are none.
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
    """Returns s3fs's file system, with credentials if there are any; one per process, as its event loop cannot be
    forked."""
    import s3fs  # type: ignore[import-untyped]
    from botocore.exceptions import NoCredentialsError

    # Signature version 4, because some servers other than Amazon's refuse botocore's default for signed addresses.
    with_credentials = s3fs.S3FileSystem(skip_instance_cache=True, config_kwargs={"signature_version": "s3v4"})
    try:
        with_credentials.sign("s3://any/thing")
    except NoCredentialsError:
        return s3fs.S3FileSystem(skip_instance_cache=True, anon=True)
    return with_credentials


@contextlib.contextmanager
def _pipe(command: str, offset: int, timeout_s: float) -> Iterator[Response]:
    with (
        tempfile.TemporaryFile() as stderr,
        # In a process group of its own, so that all processes of the shell pipeline can be killed.
        subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        ) as process,
    ):
        try:
            yield Response(0, None, functools.partial(_read_pipe, process, stderr, timeout_s))
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)


def _read_pipe(process: subprocess.Popen[bytes], stderr: BinaryIO, timeout_s: float, buffer: memoryview) -> int:
    """Reads what the command has printed so far into `buffer`; 0 at its end. Raises OSError where it failed."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(timeout_s * 1000):
        raise TimeoutError(f"no data for {timeout_s:g} s")
    count = os.readv(process.stdout.fileno(), [buffer])
    if count:
        return count
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.0, deadline - time.monotonic()))
    if process.returncode:
        stderr.seek(0)
        last = stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        kind = FileNotFoundError if process.returncode in (126, 127) else OSError  # no such command: no retry
        raise kind(f"exit code {process.returncode}: {last or 'nothing on stderr'}")
    return 0
