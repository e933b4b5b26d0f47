"""Bytes from a server that fails in chosen ways: what is tried again, for how long, and what is not."""

from __future__ import annotations

import http.client
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
    """A source that gives so many bytes a try and then fails; None: all of them."""

    def __init__(self, *tries: int | None, resumes: bool = True) -> None:
        self._tries, self._resumes, self.asked = list(tries), resumes, list[int]()

    @contextmanager
    def open_at(self, offset: int) -> Iterator[Response]:
        self.asked.append(offset)
        count, at = self._tries.pop(0) if self._tries else 0, offset if self._resumes else 0
        parts = [DATA[at:][:count], b""]

        def readinto(buffer: memoryview) -> int:
            part = parts.pop(0)
            buffer[: len(part)] = part
            return len(part)

        yield Response(at, len(DATA), readinto)


def fetched(path: Path, source: Unsteady, wanted: int | None = None) -> tuple[bytes, list[float]]:
    """What came, and how long was waited."""
    waited: list[float] = []
    with path.open("w+b") as file:
        transport.download(
            source.open_at, DownloadTarget(file, wanted, "the test"), DELAYS, lambda delay, fault: waited.append(delay)
        )
        file.flush()
        return path.read_bytes(), waited


def test_what_breaks_off_goes_on_where_it_broke(tmp_path: Path) -> None:
    source = Unsteady(100, 0, 50, None)
    assert fetched(tmp_path / "file", source) == (DATA, [1.0, 2.0, 1.0])
    assert source.asked == [0, 100, 100, 150]


def test_a_source_without_ranges_begins_again_and_is_given_up_where_it_comes_no_further(tmp_path: Path) -> None:
    assert fetched(tmp_path / "file", Unsteady(100, 50, None, resumes=False)) == (DATA, [1.0, 2.0])
    source = Unsteady(*[100] * 20, resumes=False)
    with pytest.raises(UnreachableError, match=r"^ends after 100 of 250 bytes, tried 4 times$"):
        fetched(tmp_path / "file", source)
    assert len(source.asked) == 4


@pytest.mark.parametrize("wanted", [249, 251])
def test_another_size_is_not_tried_again(tmp_path: Path, wanted: int) -> None:
    source = Unsteady(None, None)
    with pytest.raises(ChangedError, match=f"250 bytes, the test has {wanted}"):
        fetched(tmp_path / "file", source, wanted)
    assert source.asked == [0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_not_the_sources_fault() -> None:
    with Path("/dev/full").open("wb", buffering=0) as file:
        source, target = Unsteady(None, None), DownloadTarget(_raw(file), None, "the test")
        with pytest.raises(UsageError, match=r"/dev/full: cannot be written \(No space left on device\)"):
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
def test_only_what_may_pass_is_tried_again(error: Exception, final: bool) -> None:
    assert transport.is_final(error) == final


def test_a_part_is_only_had_of_the_version_that_was_begun(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"ETag": '"a"', "Last-Modified": "Mon"}, '"a"'),
        ({"ETag": 'W/"a"', "Last-Modified": "Mon"}, "Mon"),  # a weak one says only that the content means the same
        ({"ETag": 'W/"a"'}, ""),
        ({}, ""),
    ],
)
def test_a_version_is_what_if_range_takes(headers: dict[str, str], version: str) -> None:
    message = http.client.HTTPMessage()
    for name, value in headers.items():
        message[name] = value
    assert transport._version(message) == version


def test_an_address_is_shown_without_its_secrets() -> None:
    assert transport.redacted_url("https://me:secret@host:80/a%20b.tar?token=x#y") == "https://host:80/a%20b.tar"
