"""Detects truncated audio files by their own length fields; libsndfile silently decodes what is left.

    bytes -> chunks (WAV, RF64, Wave64, AIFF, CAF), a header (AU) or pages (Ogg) -> what is missing, or ""

FLAC and MP3 need no check here: their decoder reports missing frames (of MP3 where a Xing header counts them).
"""

from __future__ import annotations

import dataclasses
import struct


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """A container format that consists of chunks, each with an id, a size and a body."""

    first: int
    """Byte offset of the first chunk."""
    id_bytes: int
    size: str
    """The size field, as a struct format."""
    sound: bytes
    """How the id of the chunk with the samples begins."""
    inclusive: bool = False
    """Whether sizes include the id and the size field."""
    align: int = 2
    """Chunks begin at multiples of this."""


_CONTAINERS = {
    b"RIFF": _Chunks(12, 4, "<I", b"data"),
    b"RIFX": _Chunks(12, 4, ">I", b"data"),
    b"RF64": _Chunks(12, 4, "<I", b"data"),
    b"FORM": _Chunks(12, 4, ">I", b"SSND"),
    b"caff": _Chunks(8, 4, ">q", b"data", align=1),
    b"riff": _Chunks(40, 16, "<Q", b"data", inclusive=True, align=8),  # Wave64: ids are GUIDs
}
_PAGE, _END_OF_STREAM = 27, 4
"""Ogg: bytes of a page's header before its segment table; the flag of a stream's last page."""


def missing_end(data: bytes) -> str:
    """A description of what is missing at the end of the file; "" where nothing is or the format does not tell."""
    magic = data[:4]
    if magic == b"OggS":
        return _missing_pages(data)
    if magic in _CONTAINERS:
        missing = _missing_chunk_bytes(data, _CONTAINERS[magic])
    else:
        missing = _missing_au_bytes(data) if magic in (b".snd", b"dns.") else 0
    if missing is None:
        return "its samples are missing"
    return f"{missing} bytes of its samples are missing" if missing > 0 else ""


def _missing_chunk_bytes(data: bytes, form: _Chunks) -> int | None:
    """Bytes missing from the chunk with the samples; None where that chunk is missing itself."""
    at, head = form.first, form.id_bytes + struct.calcsize(form.size)
    wide = 0  # RF64's 64-bit size of the data chunk
    while at + head <= len(data):
        (size,) = struct.unpack_from(form.size, data, at + form.id_bytes)
        size -= head if form.inclusive else 0
        if data[at : at + 4] == b"ds64" and at + head + 16 <= len(data):
            (wide,) = struct.unpack_from("<Q", data, at + head + 8)
        if data.startswith(form.sound, at):
            size = wide or size
            return 0 if _is_unknown(size, form.size) else at + head + size - len(data)
        at += max(-(-(head + size) // form.align) * form.align, head)
    return None


def _is_unknown(size: int, field: str) -> bool:
    """Whether the size is a placeholder, as written by programs that could not seek back to the header."""
    return size < 0 or (struct.calcsize(field) == 4 and 2**31 - 2**16 <= size < 2**32)


def _missing_au_bytes(data: bytes) -> int:
    if len(data) < 12:
        return 0
    start, size = struct.unpack_from(">II" if data[:4] == b".snd" else "<II", data, 4)
    return 0 if size == 0xFFFFFFFF else start + size - len(data)


def _missing_pages(data: bytes) -> str:
    """Checks that every Ogg page is complete and that the last one has the end-of-stream flag."""
    at, flags = 0, 0
    while data.startswith(b"OggS", at) and at + _PAGE <= len(data):
        flags, segments = data[at + 5], data[at + 26]
        table = data[at + _PAGE : at + _PAGE + segments]
        at += _PAGE + segments + sum(table)
        if len(table) < segments or at > len(data):
            return "its last Ogg page is cut off"
    return "" if flags & _END_OF_STREAM else "its last Ogg page is missing"
