"""How much of an audio file is missing, by its own length fields: libsndfile takes what is left without a word.

    bytes -> chunks (WAV, RF64, Wave64, AIFF, CAF), a header (AU) or pages (Ogg) -> a line, or ""

FLAC and MP3 are not here: the decoder itself notices that frames are missing (MP3: where a Xing header counts them).
"""

from __future__ import annotations

import dataclasses
import struct


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """A container of chunks, each an id, a size and a body. `sound` begins the id of the chunk with the samples.

    `first`: where the first chunk starts; `inclusive`: sizes count id and size too; `align`: where the next one starts.
    """

    first: int
    id_bytes: int
    size: str
    sound: bytes
    inclusive: bool = False
    align: int = 2


_CONTAINERS = {
    b"RIFF": _Chunks(12, 4, "<I", b"data"),
    b"RIFX": _Chunks(12, 4, ">I", b"data"),
    b"RF64": _Chunks(12, 4, "<I", b"data"),
    b"FORM": _Chunks(12, 4, ">I", b"SSND"),
    b"caff": _Chunks(8, 4, ">q", b"data", align=1),
    b"riff": _Chunks(40, 16, "<Q", b"data", inclusive=True, align=8),  # Wave64: ids are GUIDs
}
_PAGE, _END_OF_STREAM = 27, 4
"""Of Ogg: bytes of a page's header before its table of segments; the flag of a stream's last page."""


def shortfall(data: bytes) -> str:
    """What is missing at the end of the file, in words; "" where nothing is, or the format does not say."""
    magic = data[:4]
    if magic == b"OggS":
        return _missing_pages(data)
    if magic in _CONTAINERS:
        missing = _missing_of_chunk(data, _CONTAINERS[magic])
    else:
        missing = _missing_of_au(data) if magic in (b".snd", b"dns.") else 0
    if missing is None:
        return "its samples are missing"
    return f"{missing} bytes of its samples are missing" if missing > 0 else ""


def _missing_of_chunk(data: bytes, form: _Chunks) -> int | None:
    """None where the chunk with the samples is not there at all."""
    at, head = form.first, form.id_bytes + struct.calcsize(form.size)
    wide = 0
    while at + head <= len(data):
        (size,) = struct.unpack_from(form.size, data, at + form.id_bytes)
        size -= head if form.inclusive else 0
        if data[at : at + 4] == b"ds64" and at + head + 16 <= len(data):
            (wide,) = struct.unpack_from("<Q", data, at + head + 8)  # what the data chunk's own field cannot hold
        if data.startswith(form.sound, at):
            size = wide or size
            return 0 if _is_unknown(size, form.size) else at + head + size - len(data)
        at += max(-(-(head + size) // form.align) * form.align, head)
    return None


def _is_unknown(size: int, field: str) -> bool:
    """As programs write that could not go back to the header."""
    return size < 0 or (struct.calcsize(field) == 4 and 2**31 - 2**16 <= size < 2**32)


def _missing_of_au(data: bytes) -> int:
    if len(data) < 12:
        return 0
    start, size = struct.unpack_from(">II" if data[:4] == b".snd" else "<II", data, 4)
    return 0 if size == 0xFFFFFFFF else start + size - len(data)


def _missing_pages(data: bytes) -> str:
    """Every page is whole, and the last one says that it is."""
    at, flags = 0, 0
    while data.startswith(b"OggS", at) and at + _PAGE <= len(data):
        flags, segments = data[at + 5], data[at + 26]
        table = data[at + _PAGE : at + _PAGE + segments]
        at += _PAGE + segments + sum(table)
        if len(table) < segments or at > len(data):
            return "its last Ogg page is cut off"
    return "" if flags & _END_OF_STREAM else "its last Ogg page is missing"
