"""Downloads from a source that fails in chosen ways: what is retried, how often, and what is not."""

from __future__ import annotations

import contextlib
import http.client
import io
import ssl
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from kws import transport
from kws.errors import UsageError
from kws.transport import ChangedError, DownloadTarget, Response, UnreachableError
from tests.data.web import serve

DATA = bytes(range(250))
DELAYS = (1.0, 2.0, 4.0)


class Unsteady:
    """A source that returns the given number of bytes in each try and then ends; None: all bytes."""

    def __init__(self, *tries: int | None, resumes: bool = True) -> None:
        self._tries, self._resumes, self.asked = list(tries), resumes, list[int]()

    @contextmanager
    def open_at(self, offset: int) -> Iterator[Response]:
        self.asked.append(offset)
        count, at = self._tries.pop(0) if self._tries else 0, offset if self._resumes else 0
        yield Response(at, len(DATA), io.BytesIO(DATA[at:][:count]).readinto)


def download(path: Path, source: Unsteady, wanted: int | None = None) -> tuple[bytes, list[float]]:
    """The downloaded bytes, and the delays."""
    waited: list[float] = []
    with path.open("w+b") as file:
        transport.download(
            source.open_at, DownloadTarget(file, wanted, "the test"), DELAYS, lambda delay, reason: waited.append(delay)
        )
        file.flush()
        return path.read_bytes(), waited


def test_a_broken_download_is_resumed(tmp_path: Path) -> None:
    source = Unsteady(100, 0, 50, None)
    assert download(tmp_path / "file", source) == (DATA, [1.0, 2.0, 1.0])
    assert source.asked == [0, 100, 100, 150]


def test_a_source_without_ranges_starts_over_and_fails_without_progress(tmp_path: Path) -> None:
    assert download(tmp_path / "file", Unsteady(100, 50, None, resumes=False)) == (DATA, [1.0, 2.0])
    source = Unsteady(*[100] * 20, resumes=False)
    with pytest.raises(UnreachableError, match=r"100 of 250 bytes, tried 4 times"):
        download(tmp_path / "file", source)
    assert len(source.asked) == 4


@pytest.mark.parametrize("wanted", [249, 251])
def test_another_size_is_not_retried(tmp_path: Path, wanted: int) -> None:
    source = Unsteady(None, None)
    with pytest.raises(ChangedError, match=f"250 bytes, the test has {wanted}"):
        download(tmp_path / "file", source, wanted)
    assert source.asked == [0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_not_retried() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        source, target = Unsteady(None, None), DownloadTarget(_raw(file), None, "the test")
        with pytest.raises(UsageError, match=r"/dev/full: .*No space left on device"):
            transport.download(source.open_at, target, DELAYS)
    assert source.asked == [0]


def _raw(file: object) -> BinaryIO:
    return file  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (TimeoutError(), False),
        (ConnectionResetError(), False),
        (http.client.IncompleteRead(b""), False),
        (FileNotFoundError(), True),
        (urllib.error.URLError(http.client.InvalidURL()), True),
        *[(urllib.error.HTTPError("", code, "", http.client.HTTPMessage(), None), True) for code in (400, 401, 404)],
        *[(urllib.error.HTTPError("", code, "", http.client.HTTPMessage(), None), False) for code in (408, 429, 503)],
    ],
)
def test_only_temporary_errors_are_retried(error: Exception, final: bool) -> None:
    assert transport.is_final(error) == final


def test_a_range_is_returned_only_for_the_same_version(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with serve(tmp_path) as web:
        web.version = "second"
        for version, start in (('"second"', 100), ('"first"', 0), ("", 100)):
            with transport.open_http(f"{web.url}/file", 100, 5.0, version) as opened:
                assert (opened.start, opened.size, opened.version) == (start, 250, '"second"')
        with (
            pytest.raises(ChangedError, match="fewer than 250 bytes"),
            transport.open_http(f"{web.url}/file", 250, 5.0),
        ):
            pass


@pytest.mark.parametrize("resumes", [True, False])
def test_a_resuming_reader_returns_every_byte_once(resumes: bool) -> None:
    source = Unsteady(100, 0, 50 if resumes else 150, None, resumes=resumes)
    with transport.ResumingReader(source.open_at, (0.0, 0.0)) as reader:
        assert reader.read(30) == DATA[:30]
        assert reader.read(1000) == DATA[30:]
        assert reader.read(10) == b""
    assert source.asked == [0, 100, 100, 150]


def test_a_resuming_reader_fails_after_the_last_delay_and_at_once_where_a_retry_cannot_help() -> None:
    source = Unsteady(100, 0, 0, 0)
    reader = transport.ResumingReader(source.open_at, (0.0, 0.0))
    with pytest.raises(OSError, match="100 of 250"):
        reader.read(250)
    assert source.asked == [0, 100, 100]

    def missing(offset: int) -> contextlib.AbstractContextManager[Response]:
        raise FileNotFoundError(offset)

    with pytest.raises(FileNotFoundError):
        transport.ResumingReader(missing, DELAYS).read(1)


def test_secrets_are_removed_from_an_address() -> None:
    assert transport.redacted_url("https://me:secret@host:80/a%20b.tar?token=x#y") == "https://host:80/a%20b.tar"


# --- proxies and certificates -----------------------------------------------------------------------------------------


def fetched(address: str) -> bytes:
    """The content at an address, read once without retries."""
    with transport.open_http(address, 0, 5.0) as response:
        buffer = memoryview(bytearray(1000))
        return bytes(buffer[: response.readinto(buffer)])


def test_a_proxy_is_used_and_is_blamed_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "http:" / "corpus.invalid" / "shard"  # a proxy is asked for the whole address
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    (tmp_path / "shard").write_bytes(b"direct")
    with serve(tmp_path) as web:
        monkeypatch.setenv("http_proxy", web.url.replace("http://", "http://anna:secret@"))
        assert fetched("http://corpus.invalid/shard") == DATA
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetched("http://corpus.invalid/other")
        line = transport.describe_error(refused.value)
        refused.value.close()
        assert "404" in line
        assert "http_proxy" in line
        assert "secret" not in line
    with pytest.raises(OSError, match="refused") as gone:  # the proxy has ended
        fetched("http://corpus.invalid/shard")
    assert "http_proxy" in transport.describe_error(gone.value)


def test_loopback_and_no_proxy_are_reached_without_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shard").write_bytes(DATA)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve(tmp_path) as web:
        assert fetched(f"{web.url}/shard") == DATA
    monkeypatch.setenv("no_proxy", "corpus.invalid")
    with pytest.raises(OSError, match=r"Name or service|name resolution|nodename|not known") as unknown:
        fetched("http://corpus.invalid/shard")
    assert "proxy" not in transport.describe_error(unknown.value)


@pytest.mark.parametrize(
    ("why", "wanted"),
    [
        ("certificate has expired", "clock"),
        ("certificate is not yet valid", "clock"),
        ("unable to get local issuer certificate", "SSL_CERT_FILE"),
        ("self-signed certificate", "SSL_CERT_FILE"),
        ("Hostname mismatch", "host"),
    ],
)
def test_a_certificate_that_is_not_accepted_is_explained(why: str, wanted: str) -> None:
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] {why}")
    error.verify_message = why
    line = transport.describe_error(urllib.error.URLError(error))
    assert why in line
    assert wanted in line
