"""Where the sound of a file is, read from the structure of its container; libsndfile believes the first header it sees.

    bytes -> the header, also behind a tag -> chunks (WAV, RF64, Wave64, AIFF, CAF), a header (AU, SPHERE), pages (Ogg)
          or boxes (MP4) -> a Sound: which bytes to decode, a corrected header, what is missing

A file that was cut off is told from one whose header states a wrong size: libsndfile reads what is there of both.
FLAC and MP3 need no check here: their decoder reports missing frames (of MP3 where a Xing header counts them).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import struct
from collections.abc import Iterator
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

from kws.audio import formats, remarks

_SEARCH_BYTES = 1 << 16
"""How far a header is searched for behind unknown bytes."""
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


class Sliceable(Protocol):
    """bytes, or a FileBytes."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> bytes: ...


class FileBytes:
    """The bytes of an open file, read only where they are sliced (with a start and an end)."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, file.seek(0, io.SEEK_END)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice, /) -> bytes:
        start, end, _ = part.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, end - start))


@dataclasses.dataclass(frozen=True)
class Sound:
    """What to give to a decoder: `head`, then the file's bytes from `start` to `end`.

    missing: what is missing at the end of the file, "" for nothing. remarks: see kws.audio.remarks.
    """

    head: bytes
    start: int
    end: int
    missing: str = ""
    remarks: tuple[str, ...] = ()

    def is_all_of(self, data: Sliceable) -> bool:
        """Whether that is the file as it is."""
        return not self.head and self.start == 0 and self.end == len(data)

    def bytes_of(self, data: bytes) -> bytes:
        """The bytes to be decoded."""
        return data if self.is_all_of(data) else self.head + data[self.start : self.end]

    def file_of(self, file: IO[bytes]) -> IO[bytes]:
        """The same as an open file, of which only what is wanted is read."""
        if not self.head and self.start == 0:
            file.seek(0)
            return file
        return io.BufferedReader(_Spliced(self, file))


class _Spliced(io.RawIOBase):
    """A Sound as a file."""

    def __init__(self, sound: Sound, file: IO[bytes]) -> None:
        self._sound, self._file, self._at = sound, file, 0
        self._size = len(sound.head) + sound.end - sound.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer, /) -> int:  # type: ignore[no-untyped-def]
        head, wanted = self._sound.head, min(len(buffer), self._size - self._at)
        if self._at < len(head):
            data = head[self._at : self._at + wanted]
        else:
            self._file.seek(self._sound.start + self._at - len(head))
            data = self._file.read(max(0, wanted))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def locate(data: Sliceable, with_end: bool = True) -> Sound:
    """Where the sound of a file is. Files that are damaged in other ways are left to the decoder.

    with_end: looks for the end of formats that have to be read from start to end for that (Ogg), too.
    """
    at = _header_at(data)
    magic = data[at : at + 4]
    if magic in _CONTAINERS and (magic not in _FORMS or data[at + 8 : at + 12] in _FORMS[magic]):
        found = _in_chunks(data, at, _CONTAINERS[magic])
    elif magic in (b".snd", b"dns."):
        found = _in_au(data, at)
    else:
        found = Sound(b"", at, len(data), _missing_by_header(data, at, magic) if with_end else "")
    return dataclasses.replace(found, remarks=(remarks.TAG_BEFORE, *found.remarks)) if at else found


def missing_end(data: bytes) -> str:
    """A description of what is missing at the end of the file; "" where nothing is or the format does not tell."""
    return locate(data).missing


# --- the header ---------------------------------------------------------------------------------------------------


def _header_at(data: Sliceable) -> int:
    """Byte offset of the header: 0, or behind a tag, zeros or other bytes."""
    magic = data[:4]
    if magic in _CONTAINERS or magic in (b"fLaC", b"OggS"):
        return 0
    if magic[:3] == b"ID3":
        tag = formats.id3_bytes(data[: formats.HEAD_BYTES])
        behind = formats.audio_format(data[tag : tag + formats.HEAD_BYTES])
        # ID3 tags belong to these; their decoders skip them.
        return 0 if behind is None or behind.name in ("MP3", "AAC") else tag
    if formats.audio_format(data[: formats.HEAD_BYTES]) or formats.describe_other(data[: formats.HEAD_BYTES]):
        return 0
    return _search_header(data[:_SEARCH_BYTES])


def _search_header(start: bytes) -> int:
    """Offset of the first header of a format that libsndfile reads; 0 where there is none."""
    zeros = len(start) - len(start.lstrip(b"\0"))
    if zeros and formats.audio_format(start[zeros : zeros + formats.HEAD_BYTES]):
        return zeros
    places = []
    for magic, rest, gap in _HEADERS:
        at = start.find(magic)
        while at >= 0 and not start.startswith(rest, at + len(magic) + gap):
            at = start.find(magic, at + 1)
        places += [at] if at > 0 else []
    return min(places, default=0)


_HEADERS = (
    (b"RIFF", b"WAVEfmt ", 4), (b"RIFX", b"WAVEfmt ", 4), (b"FORM", b"AIFF", 4), (b"FORM", b"AIFC", 4),
    (b"fLaC", b"\0\0\0\x22", 0), (b"OggS", b"\0\x02", 0), (b"caff", b"\0\x01\0", 0), (b"NIST_1A\n", b"   1024\n", 0),
)  # fmt: skip
"""What headers begin with, what follows, and how many bytes lie between."""


# --- chunks -------------------------------------------------------------------------------------------------------


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


def _in_chunks(data: Sliceable, at: int, form: _Chunks) -> Sound:
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
    if data[at + 8 : at + 12] == b"RMP3":  # the decoder wants the MP3 alone
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
        return (0, "") if _is_tail(data, chunk.body, form) else (there, remarks.WRONG_SIZE)
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
    """Whether what follows the samples is no sound: nothing, zeros, a tag, or further chunks."""
    start = data[at : at + 4096]
    if not start.strip(b"\0") or start.startswith(_TAGS_AFTER):
        return True
    id_ = start[: form.id_bytes]
    if len(start) < form.head_bytes or (form.id_bytes == 4 and not all(32 <= byte < 127 for byte in id_)):
        return False
    (size,) = struct.unpack(form.size, start[form.id_bytes : form.head_bytes])
    return bool(0 <= size <= len(data) - at)


def _rebuilt_wav(data: Sliceable, at: int, form: _Chunks, sound: _Chunk, size: int, found: tuple[str, ...]) -> Sound:
    """A WAV file with only the chunks that tell how to decode the samples, in the usual order."""
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


# --- other headers ------------------------------------------------------------------------------------------------


def _in_au(data: Sliceable, at: int) -> Sound:
    if len(data) < at + 12:
        return Sound(b"", at, len(data))
    order = ">" if data[at : at + 4] == b".snd" else "<"
    start, size = struct.unpack(order + "II", data[at + 4 : at + 12])
    there = len(data) - at - start
    if size == 0 and there > 0:
        head = data[at : at + 8] + b"\xff" * 4
        return Sound(head, at + 12, len(data), remarks=(remarks.WRONG_SIZE,))
    missing = 0 if size == 0xFFFFFFFF else size - there
    return Sound(b"", at, len(data), f"{missing} bytes of its samples are missing" if missing > 0 else "")


def _missing_by_header(data: Sliceable, at: int, magic: bytes) -> str:
    """What is missing according to a header or frames that need no correction."""
    if magic == b"OggS":
        return _missing_pages(data, at)
    if magic == b"NIST":
        return _missing_sphere(data, at)
    if data[at + 4 : at + 8] == b"ftyp":
        return _missing_boxes(data, at)
    return ""


_PAGE, _END_OF_STREAM = 27, 4
"""Ogg: bytes of a page's header before its segment table; the flag of a stream's last page."""


def _missing_pages(data: Sliceable, at: int) -> str:
    """Checks that every Ogg page is complete and that the last one has the end-of-stream flag."""
    flags = 0
    while at + _PAGE <= len(data):
        page = data[at : at + _PAGE + 255]
        if not page.startswith(b"OggS"):
            break
        flags, segments = page[5], page[26]
        table = page[_PAGE : _PAGE + segments]
        at += _PAGE + segments + sum(table)
        if len(table) < segments or at > len(data):
            return "its last Ogg page is cut off"
    return "" if flags & _END_OF_STREAM else "its last Ogg page is missing"


def _missing_sphere(data: Sliceable, at: int) -> str:
    """Compares the samples that a NIST SPHERE header counts with the bytes there."""
    lines = data[at : at + 1024].partition(b"end_head")[0].decode("latin-1").split("\n")
    fields = {parts[0]: parts[2] for parts in (line.split() for line in lines) if len(parts) == 3}
    try:
        header = int(lines[1])
        numbers = [int(fields[name]) for name in ("sample_count", "sample_n_bytes", "channel_count")]
    except (KeyError, ValueError, IndexError):
        return ""
    if fields.get("sample_coding", "pcm") not in ("pcm", "ulaw", "mu-law", "alaw"):  # shorten: compressed
        return ""
    missing = numbers[0] * numbers[1] * numbers[2] + header - (len(data) - at)
    return f"{missing} bytes of its samples are missing" if missing > 0 else ""


def _missing_boxes(data: Sliceable, at: int) -> str:
    """Compares the sizes of an MP4 file's boxes with the bytes there."""
    while at + 8 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if size == 1 and at + 16 <= len(data):
            (size,) = struct.unpack(">Q", data[at + 8 : at + 16])
        if size < 8:  # 0: to the end of the file
            return ""
        at += size
    return f"{at - len(data)} bytes are missing" if at > len(data) else ""


def is_whole_flac(data: bytes, samples: npt.NDArray[np.float32]) -> bool:
    """Whether the samples (T, channels) are all of this FLAC file, by their number and the file's MD5."""
    if data[:4] != b"fLaC" or len(data) < 42:
        return False
    bits = ((data[20] & 1) << 4 | data[21] >> 4) + 1
    count, md5 = int.from_bytes(data[21:26], "big") & (2**36 - 1), data[26:42]
    if len(samples) != count or bits > 24:
        return False
    whole = np.rint(samples * np.float32(1 << (bits - 1))).astype("<i4")
    packed = whole.view(np.uint8).reshape(-1, 4)[:, : -(-bits // 8)].tobytes()
    return md5 in (bytes(16), hashlib.md5(packed, usedforsecurity=False).digest())
