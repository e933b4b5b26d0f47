"""Downloading: bytes from an address to an open file or a reader, resumed and retried after network faults.

    address, offset -> Response -> chunks -> DownloadTarget (a file), or ResumingReader (read once, kept nowhere)

    404, 403, 401 and the like          fails at once
    no answer, reset, 5xx, short read   tried again after a growing delay, from where it broke off if the server can
    other content than is wanted        ChangedError: the caller decides what to do

Used for shards (kws.data.shard_fetch), whole archives (kws.corpus.fetch) and shards packed by others
(kws.packing.external_index).
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

from kws.errors import UsageError, cannot_write
from kws.system_errors import refusal

_CHUNK_BYTES = 1 << 20
_RETRIED_CODES = {408, 425, 429}  # beside 5xx: HTTP errors that another try may not meet


class ChangedError(Exception):
    """The source has other content than is wanted."""


class UnreachableError(Exception):
    """The content could not be downloaded. The message has the reason, and the number of tries."""


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How long a source may be silent, and the delay before each further try, both in seconds."""

    timeout_s: float = 20.0
    delays_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)


class Response(NamedTuple):
    """Content that can be read. `start`: the offset of its first byte. `size`: bytes of the whole (None: unknown).
    `readinto` fills a buffer and returns the number of bytes, 0 at the end. `version`: the server's ETag or date."""

    start: int
    size: int | None
    readinto: Callable[[memoryview], int]
    version: str = ""


OpenAt = Callable[[int], contextlib.AbstractContextManager[Response]]
"""Opens the content at a byte offset. The response may start at 0 instead, where a server cannot seek."""


class DownloadTarget:
    """The part of a download that has arrived, in an open file.

    `wanted`: the size that it must have in the end (None: the server's), known from `source`, such as "the index".
    """

    def __init__(self, file: BinaryIO, wanted: int | None, source: str) -> None:
        self._file, self._wanted, self._source = file, wanted, source
        self.bytes = 0

    def restart(self) -> None:
        """Discards what has arrived."""
        self._file.seek(0)
        self._file.truncate()
        self.bytes = 0

    def receive(self, response: Response) -> None:
        """Writes everything that is missing. Raises OSError where the source ends early, ChangedError for content of
        another size, UsageError where the file cannot be written."""
        wanted = response.size if self._wanted is None else self._wanted
        if response.size not in (None, wanted):
            raise ChangedError(f"{response.size} bytes, {self._source} has {wanted}")
        if wanted is not None and response.start > wanted:
            raise ChangedError(f"fewer than {response.start} bytes")
        if response.start != self.bytes:
            self.restart()
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        while count := response.readinto(buffer):
            if wanted is not None and self.bytes + count > wanted:
                raise ChangedError(f"more than {wanted} bytes, which {self._source} has")
            self.write(buffer[:count])
        if wanted is not None and self.bytes < wanted:
            raise OSError(f"ends after {self.bytes} of {wanted} bytes")

    def write(self, chunk: memoryview) -> None:
        """Appends to the file."""
        try:
            self._file.write(chunk)
        except OSError as error:  # not the source's fault: another try would not help
            error.filename = error.filename or self._file.name
            raise UsageError(cannot_write(self._file.name, error, "make room there")) from error
        self.bytes += len(chunk)


class _Retries:
    """The delays before further tries. Starts over after a try that came further than all before it."""

    def __init__(self, delays_s: tuple[float, ...], position: int) -> None:
        self._delays_s, self._furthest = delays_s, position
        self._delays, self.tries = iter(delays_s), 1

    def next_delay(self, error: Exception, position: int) -> float | None:
        """Seconds to wait after a try that ended at `position` with `error`; None: do not try again."""
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        if position > self._furthest:
            self._delays, self._furthest, self.tries = iter(self._delays_s), position, 1
        delay = None if is_final(error) else next(self._delays, None)
        self.tries += delay is not None
        return delay


def download(
    open_at: OpenAt,
    target: DownloadTarget,
    delays_s: tuple[float, ...],
    wait: Callable[[float, str], None] = lambda delay, reason: time.sleep(delay),
) -> None:
    """Fills the target. `wait` is called with the delay and the reason, and returns when to try again.

    Raises UnreachableError after the last delay, or at once where another try cannot help; what `target.receive`
    raises.
    """
    retries = _Retries(delays_s, target.bytes)
    while True:
        try:
            with open_at(target.bytes) as response:
                target.receive(response)
            return
        except (OSError, http.client.HTTPException) as error:
            reason = describe_error(error)
            delay = retries.next_delay(error, target.bytes)
            if delay is None:
                tries = f", tried {retries.tries} times" if retries.tries > 1 else ""
                raise UnreachableError(reason + tries) from error
            wait(delay, reason)


class ResumingReader(contextlib.ExitStack):
    """Reads content from start to end, as a file. After a fault it opens the source again where it broke off.

    `read` raises the last OSError or HTTPException after the last delay, or at once where another try cannot help.
    """

    def __init__(self, open_at: OpenAt, delays_s: tuple[float, ...]) -> None:
        super().__init__()
        self._open_at, self._position, self._retries = open_at, 0, _Retries(delays_s, 0)
        self._response: Response | None = None

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        buffer, count = memoryview(bytearray(size)), 0
        while count < size:
            received = self._read_some(buffer[count:])
            if not received:
                break
            count += received
        return bytes(buffer[:count])

    def _read_some(self, buffer: memoryview) -> int:
        while True:
            try:
                self._response = self._response or self._reopen()
                received = self._response.readinto(buffer)
                if not received and self._response.size not in (None, self._position):
                    raise OSError(f"ends after {self._position} of {self._response.size} bytes")
                self._position += received
                return received
            except (OSError, http.client.HTTPException) as error:
                self._response = None
                delay = self._retries.next_delay(error, self._position)
                if delay is None:
                    raise
                time.sleep(delay)

    def _reopen(self) -> Response:
        self.close()
        response = self.enter_context(self._open_at(self._position))
        left = self._position - response.start  # 0, unless the server cannot start in the middle
        while left > 0:
            received = response.readinto(memoryview(bytearray(min(_CHUNK_BYTES, left))))
            if not received:
                raise OSError(f"ends before byte {self._position}")
            left -= received
        return response


def describe_error(error: Exception) -> str:
    """The reason of a network or system error, for messages."""
    through = f", through the proxy {error.proxy}" if hasattr(error, "proxy") else ""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}{through}"
    if isinstance(reason := getattr(error, "reason", error), ssl.SSLCertVerificationError):
        return f"{reason.verify_message}: {_certificate_advice(reason)}{through}"
    if isinstance(error, OSError) and error.filename:  # of a file, not of the network
        return refusal(error) or error.strerror or str(error)
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or error or type(error).__name__) + through


def _certificate_advice(error: ssl.SSLCertVerificationError) -> str:
    """What to do where the server's certificate is not accepted."""
    if "expired" in error.verify_message or "not yet valid" in error.verify_message:
        return f"is the clock of this machine right? It shows {time.strftime('%Y-%m-%d %H:%M')}"
    if "issuer" in error.verify_message or "self-signed" in error.verify_message:
        return "name your authority's certificates, SSL_CERT_FILE=FILE (in a slim container: install ca-certificates)"
    return "is the name of the host right?"


def is_final(error: Exception) -> bool:
    """Whether another try would fail in the same way."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in _RETRIED_CODES
    reason = getattr(error, "reason", error)  # of a URLError
    if isinstance(reason, ssl.SSLCertVerificationError | http.client.InvalidURL):
        return True
    return isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)


def redacted_url(address: str) -> str:
    """An http(s) address for messages: without passwords and signatures."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@contextlib.contextmanager
def open_http(address: str, offset: int, timeout_s: float, version: str = "") -> Iterator[Response]:
    """The content at http(s)://, from `offset` if the server can seek and still has that `version`, else from 0.

    Raises OSError, HTTPException; ChangedError where the content has fewer than `offset` bytes.
    """
    headers = {"User-Agent": "kws"}
    if offset:
        headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": version} if version else {})
    proxy = _proxy_of(address)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxy))
    try:
        answer = opener.open(urllib.request.Request(address, headers=headers), timeout=timeout_s)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # range not satisfiable
            error.close()
            raise ChangedError(f"fewer than {offset} bytes") from error
        for scheme, name in proxy.items():  # it may be the proxy that fails
            error.proxy = f"{redacted_url(name)} ({scheme}_proxy)"  # type: ignore[union-attr]
        raise
    with answer:
        start, length = 0, answer.headers.get("Content-Length")
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
            match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
            start = int(match[1]) if match else -1
            if start != offset:
                raise OSError(f"another range than asked for: {answer.headers.get('Content-Range')}")
        size = start + int(length) if length else None
        yield Response(start, size, functools.partial(_read_http, answer), _version(answer.headers))


def _proxy_of(address: str) -> dict[str, str]:
    """Scheme and address of the proxy that http_proxy, https_proxy and no_proxy give for an address; {} for none.

    Never one for this machine itself, whose own addresses a proxy elsewhere can't reach.
    """
    parts = urllib.parse.urlsplit(address)
    name = urllib.request.getproxies().get(parts.scheme)
    host = parts.hostname or ""
    if not name or host == "localhost" or host == "::1" or host.startswith("127."):
        return {}
    return {} if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]) else {parts.scheme: name}


def _version(headers: http.client.HTTPMessage) -> str:
    """What If-Range accepts: a strong ETag, else the date of the last change (RFC 9110, section 13.1.5)."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified", "")


def _read_http(answer: Any, buffer: memoryview) -> int:
    """What has arrived. HTTPResponse.readinto would fill the whole buffer, and lose its content at a fault."""
    chunk = answer.read1(len(buffer))
    buffer[: len(chunk)] = chunk
    return len(chunk)
