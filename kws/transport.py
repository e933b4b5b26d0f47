"""Bytes from an address to an open file, all of them: what breaks off is taken up again, a few times.

    address, offset -> answer -> chunks -> Target: the file, and what its owner wants of it

    404, 403, 401 and the like            UnreachableError at once
    no answer, reset, 5xx, short read     again after a growing delay, where it broke off if the server can
    other content than is wanted          ChangedError: what then is the owner's to say

Shards (kws.data.shard_fetch) and whole archives (kws.corpus.fetch) come this way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from kws.errors import UsageError

_CHUNK_BYTES = 1 << 20
_AGAIN = {408, 425, 429}  # beside 5xx: the HTTP answers that may be another one in a moment


class ChangedError(Exception):
    """The source has something else than is wanted."""


class UnreachableError(Exception):
    """It does not come, however often it is asked for: says why, and how often it was tried."""


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How long a source may be silent, and how long to wait before each further try, in seconds."""

    timeout_s: float = 20.0
    delays_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)


class Opened(NamedTuple):
    """Content being read: the byte it starts at, its whole size (None: not said), what fills a buffer, and what the
    server calls this version of it ("": nothing)."""

    start: int
    size: int | None
    readinto: Callable[[memoryview], int]
    version: str = ""


class Target:
    """The part that is there, in an open file. `wanted`: the size it must come to (None: what the server says), known
    from `source`, such as "the index"."""

    def __init__(self, file: BinaryIO, wanted: int | None, source: str) -> None:
        self._file, self._wanted, self._source = file, wanted, source
        self.bytes = 0

    def restart(self) -> None:
        """Forgets what is there."""
        self._file.seek(0)
        self._file.truncate()
        self.bytes = 0

    def take(self, opened: Opened) -> None:
        """All that is missing. Raises OSError where the source ends too early, ChangedError, UsageError (disk)."""
        wanted = opened.size if self._wanted is None else self._wanted
        if opened.size not in (None, wanted):
            raise ChangedError(f"{opened.size} bytes, {self._source} has {wanted}")
        if wanted is not None and opened.start > wanted:
            raise ChangedError(f"fewer than {opened.start} bytes")
        if opened.start != self.bytes:
            self.restart()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while count := opened.readinto(buffer):
            if wanted is not None and self.bytes + count > wanted:
                raise ChangedError(f"more than {wanted} bytes, which {self._source} has")
            self.write(buffer[:count])
        if wanted is not None and self.bytes < wanted:
            raise OSError(f"ends after {self.bytes} of {wanted} bytes")

    def write(self, chunk: memoryview) -> None:
        """Appends."""
        try:
            self._file.write(chunk)
        except OSError as error:  # not the source's fault: trying again would not help
            raise UsageError(f"{self._file.name}: cannot be written ({error.strerror}); make room there") from error
        self.bytes += len(chunk)


def download(
    open_at: Callable[[int], contextlib.AbstractContextManager[Opened]],
    target: Target,
    delays_s: tuple[float, ...],
    wait: Callable[[float, str], None] = lambda delay, fault: time.sleep(delay),
) -> None:
    """Fills the target from `open_at` (the byte to start at -> content). `wait` is told why, and returns to try again.

    A try that came further than all before it gives back the patience of the first. Raises UnreachableError.
    """
    delays, furthest, tries = iter(delays_s), target.bytes, 1
    while True:
        try:
            with open_at(target.bytes) as opened:
                target.take(opened)
            return
        except (OSError, http.client.HTTPException) as error:
            fault = _fault(error)
            if target.bytes > furthest:
                delays, furthest, tries = iter(delays_s), target.bytes, 1
            delay = None if is_final(error) else next(delays, None)
            if delay is None:
                raise UnreachableError(f"{fault}, tried {tries} times" if tries > 1 else fault) from error
            tries += 1
            wait(delay, fault)


def _fault(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
        return f"HTTP {error.code} {error.reason}"
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error or type(error).__name__)


def is_final(error: Exception) -> bool:
    """Whether the same would come of another try."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in _AGAIN
    reason = getattr(error, "reason", error)  # of a URLError
    if isinstance(reason, ssl.SSLCertVerificationError | http.client.InvalidURL):
        return True
    return isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)


def shown(address: str) -> str:
    """An http(s) address as messages have it: without passwords and signatures."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextlib.contextmanager
def open_http(address: str, offset: int, timeout_s: float, version: str = "") -> Iterator[Opened]:
    """What lies at http(s)://, from `offset` on where the server can and still has that `version`, else from 0.

    Raises OSError, HTTPException; ChangedError where it has fewer than `offset` bytes.
    """
    headers = {"User-Agent": "kws"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": version} if version else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        raise ChangedError(f"fewer than {offset} bytes") from error
    with answer:
        start, length = 0, answer.headers.get("Content-Length")
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            said = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            start = int(said[1]) if said else -1
            if start != offset:
                raise OSError(f"another range than asked for: {answer.headers.get('Content-Range')}")
        size = start + int(length) if length else None
        yield Opened(start, size, functools.partial(_read_http, answer), _version(answer.headers))


def _version(headers: http.client.HTTPMessage) -> str:
    """What If-Range can be asked with: a strong ETag, else the date of the last change (RFC 9110, 13.1.5)."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _read_http(answer: Any, buffer: memoryview) -> int:
    """What is there by now: HTTPResponse.readinto fills the whole buffer, and a fault meanwhile loses what had come."""
    chunk = answer.read1(len(buffer))
    buffer[: len(chunk)] = chunk
    return len(chunk)
