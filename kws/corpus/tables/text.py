"""Opens text files of any Unicode encoding that begins with a byte-order mark, else as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import NoReturn

from kws.corpus.tables.place import Place
from kws.errors import UsageError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
HEAD_BYTES = 65_536


def head(place: Place, path: str) -> str:
    """The first lines of a text file; the last of them may be cut. "" for a file that is not text."""
    with place.open(path) as file:
        data = file.read(HEAD_BYTES)
    encoding = encoding_of(data)
    if encoding != "utf-16" and b"\0" in data:
        return ""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError as error:
        return data[: error.start].decode(encoding) if error.start else ""


def encoding_of(data: bytes) -> str:
    """The encoding that the first bytes of a file state."""
    return next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")


def open_text(place: Place, path: str, newline: str | None = None) -> io.TextIOWrapper:
    """Opens a text file for reading; `newline` as in open(). Raises UsageError where it cannot be read."""
    with place.open(path) as file:
        encoding = encoding_of(file.read(4))
    return io.TextIOWrapper(place.open(path), encoding=encoding, newline=newline)


def raise_not_unicode(place: Place, path: str, error: UnicodeDecodeError) -> NoReturn:
    """Raises a UsageError that names the first line that is not UTF-8."""
    with place.open(path) as file:
        line = next((number for number, data in enumerate(file, 1) if not _is_utf8(data)), 0)
    raise UsageError(f"{place.name}/{path}:{line}: not UTF-8; wanted the table saved in UTF-8") from error


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
