"""A truncated file is never decoded as a shorter recording, in any container."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from kws.audio import codec, containers

HISS = np.random.default_rng(0).standard_normal(16001) * 0.1
KINDS = [
    ("WAV", "PCM_16", "FILE"), ("WAV", "PCM_U8", "FILE"), ("WAV", "PCM_16", "BIG"), ("WAV", "ULAW", "FILE"),
    ("WAV", "IMA_ADPCM", "FILE"), ("WAVEX", "PCM_24", "FILE"), ("RF64", "PCM_16", "FILE"), ("W64", "PCM_32", "FILE"),
    ("AIFF", "PCM_16", "FILE"), ("AIFF", "PCM_16", "LITTLE"), ("AIFF", "FLOAT", "FILE"), ("AIFF", "PCM_S8", "FILE"),
    ("AU", "PCM_16", "BIG"), ("AU", "FLOAT", "LITTLE"), ("AU", "ULAW", "FILE"), ("CAF", "PCM_16", "FILE"),
    ("CAF", "ALAC_16", "FILE"), ("FLAC", "PCM_24", "FILE"), ("OGG", "VORBIS", "FILE"), ("OGG", "OPUS", "FILE"),
    ("MP3", "MPEG_LAYER_III", "FILE"),
]  # fmt: skip


def written(form: str, subtype: str, endian: str, samples: np.ndarray = HISS) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format=form, subtype=subtype, endian=endian)
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "subtype", "endian"), KINDS)
def test_whole_files_are_decoded_and_truncated_ones_are_detected(form: str, subtype: str, endian: str) -> None:
    data = written(form, subtype, endian)
    assert containers.missing_end(data) == ""
    assert len(codec.decode(data)) - len(HISS) in range(512)  # ADPCM fills its last block
    for keep in (len(data) - 2, len(data) - 200, len(data) * 9 // 10, len(data) // 2, 60):
        with pytest.raises(codec.AudioError):
            codec.decode(data[:keep])


def test_an_ogg_file_truncated_between_pages_is_detected() -> None:
    data = written("OGG", "VORBIS", "FILE", np.tile(HISS, 5))
    assert containers.missing_end(data[: data.rindex(b"OggS")]).endswith("is missing")
    assert containers.missing_end(data[:-1]).endswith("is cut off")
    with pytest.raises(codec.AudioError, match="Ogg page"):
        codec.decode(data[: data.rindex(b"OggS")])


@pytest.mark.parametrize(
    ("form", "at", "unknown"),
    [
        ("WAV", lambda data: 40, b"\xff\xff\xff\xff"),
        ("WAV", lambda data: 40, struct.pack("<I", 0x7FFFFFFF)),
        ("AU", lambda data: 8, b"\xff\xff\xff\xff"),
        ("CAF", lambda data: data.index(b"data") + 4, struct.pack(">q", -1)),
    ],
)
def test_a_placeholder_for_the_length_is_not_a_truncation(form, at, unknown) -> None:  # type: ignore[no-untyped-def]
    data = bytearray(written(form, "PCM_16", "FILE"))
    data[at(data) : at(data) + len(unknown)] = unknown
    assert containers.missing_end(bytes(data)) == ""


@pytest.mark.parametrize("data", [b"", b"RIFF", b".snd", b"OggS", b"caff\0\1\0\0", b"hello, this is text"])
def test_a_few_bytes_are_refused_by_the_decoder(data: bytes) -> None:
    with pytest.raises(codec.AudioError):
        codec.decode(data)
