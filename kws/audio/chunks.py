"""Audio formats that consist of chunks with an id and a size: WAV, RF64, Wave64, AIFF, CAF.

    bytes -> chunks, as far as their sizes lead -> the chunk with the samples -> its true size -> a Sound

A truncated file is distinguished from one whose header states a wrong size, since libsndfile reads what is left of
both. Sizes are wrong where a recorder counted its header too, or was switched off before it wrote them (0, or a
placeholder).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from kws.audio import remarks
from kws.audio.sound_bytes import Sliceable, Sound

_HEADER_EXCESS = (8, 36, 44)
"""Bytes by which recorders state a size too large: they count parts of the header."""
_WAVS, _MOST_WAV_BYTES = (b"RIFF", b"RIFX", b"RF64", b"BW64"), 2**32 - 2**16
_TAGS_AFTER = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
_WAV_CHUNKS = frozenset(
    {
        b"fmt ",
        b"data",
        b"fact",
        b"LIST",
        b"JUNK",
        b"junk",
        b"bext",
        b"PEAK",
        b"cue ",
        b"smpl",
        b"id3 ",
        b"ID3 ",
        b"iXML",
    }
)


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

    @property
    def head_bytes(self) -> int:
        """Bytes of a chunk before its body."""
        return self.id_bytes + struct.calcsize(self.size)


_CONTAINERS = {
    b"RIFF": _Chunks(12, 4, "<I", b"data"),
    b"RIFX": _Chunks(12, 4, ">I", b"data"),
    b"RF64": _Chunks(12, 4, "<I", b"data"),
    b"BW64": _Chunks(12, 4, "<I", b"data"),
    b"FORM": _Chunks(12, 4, ">I", b"SSND"),
    b"caff": _Chunks(8, 4, ">q", b"data", align=1),
    b"riff": _Chunks(40, 16, "<Q", b"data", inclusive=True, align=8),  # Wave64: ids are GUIDs
}


_FORMS = {b"RIFF": (b"WAVE", b"RMP3"), b"FORM": (b"AIFF", b"AIFC")}
"""Forms of containers that hold other things too."""


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """A chunk: its id, where it begins and where its body does, the stated size of the body."""

    id: bytes
    at: int
    body: int
    size: int
    padded: bool = True
    """False where the next chunk follows an odd size at once."""


def _chunks(data: Sliceable, at: int, form: _Chunks) -> Iterator[_Chunk]:
    """The chunks of the container at `at`, as far as their sizes lead."""
    place, wide = at + form.first, 0
    while place + form.head_bytes <= len(data):
        (size,) = struct.unpack(form.size, data[place + form.id_bytes : place + form.head_bytes])
        size -= form.head_bytes if form.inclusive else 0
        id_, body = data[place : place + 4], place + form.head_bytes
        if id_ == b"ds64" and body + 16 <= len(data):
            (wide,) = struct.unpack("<Q", data[body + 8 : body + 16])  # RF64's 64-bit size of the data chunk
        if id_ == form.sound:
            size = wide or size
        end = body + max(size, 0)
        padding = -(end - at) % form.align
        padded = not (padding and form.sound == b"data" and _is_unpadded(data, end))
        yield _Chunk(id_, place, body, size, padded)
        place = end + (padding if padded else 0)


def _is_unpadded(data: Sliceable, end: int) -> bool:
    """Whether a chunk begins right behind an odd size, as by programs that forget the padding."""
    return data[end : end + 4] in _WAV_CHUNKS and data[end + 1 : end + 5] not in _WAV_CHUNKS


def is_chunked(data: Sliceable, at: int) -> bool:
    """Whether a header of these formats begins at `at`."""
    magic = data[at : at + 4]
    return magic in _CONTAINERS and (magic not in _FORMS or data[at + 8 : at + 12] in _FORMS[magic])


def find_sound(data: Sliceable, at: int) -> Sound:
    """Where the samples are in the container that begins at `at`."""
    form = _CONTAINERS[data[at : at + 4]]
    before = list[_Chunk]()
    for chunk in _chunks(data, at, form):
        if chunk.id == form.sound:
            break
        before.append(chunk)
    else:
        return Sound(b"", at, len(data), "its samples are missing")
    there = len(data) - chunk.body
    size, remark = _true_size(data, at, form, chunk)
    if size > there:
        return Sound(b"", at, len(data), f"{size - there} bytes of its samples are missing")
    found = (remark,) if remark else ()
    magic = data[at : at + 4]
    if data[at + 8 : at + 12] == b"RMP3":  # the decoder needs the MP3 alone
        return Sound(b"", chunk.body, chunk.body + size)
    if magic in _WAVS and size < _MOST_WAV_BYTES:
        is_unusual = not all(other.padded for other in before) or not any(other.id == b"fmt " for other in before)
        if is_unusual or size != chunk.size or magic == b"BW64":  # which libsndfile does not know
            unusual = (remarks.OTHER_ORDER,) if is_unusual else ()
            return _rebuilt_wav(data, at, form, chunk, size, (*found, *unusual))
    elif size != chunk.size and not _is_unknown(chunk.size, form.size) and magic not in _WAVS:
        stated = struct.pack(form.size, size + (form.head_bytes if form.inclusive else 0))
        head = data[at : chunk.at + form.id_bytes] + stated
        return Sound(head, chunk.body, len(data), remarks=found)
    return Sound(b"", at, len(data), remarks=found)


def _true_size(data: Sliceable, at: int, form: _Chunks, chunk: _Chunk) -> tuple[int, str]:
    """Bytes of the chunk with the samples, and a remark where that is not what it states.

    Larger than the bytes there where the file was cut off.
    """
    there, size = len(data) - chunk.body, chunk.size
    if _is_unknown(size, form.size):
        return there, remarks.WRONG_SIZE if there else ""
    if size == 0:
        return (0, "") if there == 0 or _is_chunk(data, chunk.body, form) else (there, remarks.WRONG_SIZE)
    if size > there:
        whole = _stated_end(data, at, form)
        is_counted_wrong = size - there in _HEADER_EXCESS or size in (len(data), len(data) - 8)
        if is_counted_wrong or whole in (len(data), len(data) - 1):
            return there, remarks.WRONG_SIZE
    elif there - size > 1024 and not _is_tail(data, chunk.body + size + size % form.align, form):
        return size, remarks.LEFT_AFTER
    return size, ""


def _stated_end(data: Sliceable, at: int, form: _Chunks) -> int:
    """Where the file ends according to its first size field; 0 where it has none."""
    if form.first != 12:
        return 0
    (size,) = struct.unpack(form.size, data[at + 4 : at + 8])
    return at + 8 + int(size)


def _is_tail(data: Sliceable, at: int, form: _Chunks) -> bool:
    """Whether what follows the samples is no sound: zeros, a tag, or further chunks."""
    start = data[at : at + 4096]
    return not start.strip(b"\0") or start.startswith(_TAGS_AFTER) or _is_chunk(data, at, form)


def _is_chunk(data: Sliceable, at: int, form: _Chunks) -> bool:
    """Whether a chunk begins there: with a printable id, and a size that the file can hold."""
    start = data[at : at + form.head_bytes]
    if len(start) < form.head_bytes or (form.id_bytes == 4 and not all(32 <= byte < 127 for byte in start[:4])):
        return False
    (size,) = struct.unpack(form.size, start[form.id_bytes :])
    return bool(0 <= size <= len(data) - at)


def _rebuilt_wav(data: Sliceable, at: int, form: _Chunks, sound: _Chunk, size: int, found: tuple[str, ...]) -> Sound:
    """A WAV file with only the chunks needed to decode the samples, in the usual order."""
    others = b""
    for chunk in _chunks(data, at, form):
        if chunk.id in (b"fmt ", b"fact") and chunk.body + chunk.size <= len(data):
            body = data[chunk.body : chunk.body + chunk.size]
            others += chunk.id + struct.pack(form.size, len(body)) + body + b"\0" * (len(body) % 2)
    head = b"WAVE" + others + b"data" + struct.pack(form.size, size)
    magic = b"RIFX" if form.size == ">I" else b"RIFF"
    return Sound(magic + struct.pack(form.size, len(head) + size) + head, sound.body, sound.body + size, remarks=found)


def _is_unknown(size: int, field: str) -> bool:
    """Whether the size is a placeholder, as written by programs that could not seek back to the header."""
    return size < 0 or (struct.calcsize(field) == 4 and 2**31 - 2**16 <= size < 2**32)
