"""Where the sound of a file is, read from the structure of its container; libsndfile trusts the first header in it.

    bytes -> the header, also behind a tag -> chunks (kws.audio.chunks), a header (AU, SPHERE), pages (Ogg), boxes (MP4)
          -> a Sound: which bytes to decode, a corrected header, what is missing

FLAC and MP3 need no check here: their decoder reports missing frames (of MP3 where a Xing header counts them).
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import numpy as np
import numpy.typing as npt

from kws.audio import chunks, formats, remarks
from kws.audio.sound_bytes import Sliceable, Sound

_SEARCH_BYTES = 1 << 16
"""How far a header is searched for behind unknown bytes."""

_ID3_HEADER = 10


def locate(data: Sliceable, with_end: bool = True) -> Sound:
    """Where the sound of a file is. Files that are damaged in other ways are left to the decoder.

    with_end: looks for the end of formats that have to be read from start to end for that (Ogg), too.
    """
    at = _header_at(data)
    magic = data[at : at + 4]
    if chunks.is_chunked(data, at):
        found = chunks.find_sound(data, at)
    elif magic in (b".snd", b"dns."):
        found = _in_au(data, at)
    else:
        found = Sound(b"", at, len(data), _missing_by_header(data, at, magic) if with_end else "")
    return dataclasses.replace(found, remarks=(remarks.TAG_BEFORE, *found.remarks)) if at else found


def missing_end(data: bytes) -> str:
    """A description of what is missing at the end of the file; "" where nothing is or the format does not show it."""
    return locate(data).missing


# --- the header ---------------------------------------------------------------------------------------------------


def _header_at(data: Sliceable) -> int:
    """Byte offset of the header: 0, or behind a tag, zeros or other bytes."""
    magic = data[:4]
    if magic in (b"fLaC", b"OggS") or chunks.is_chunked(data, 0):
        return 0
    if magic[:3] == b"ID3":
        tag = 0
        while more := formats.id3_bytes(data[tag : tag + _ID3_HEADER]):
            tag += more
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
