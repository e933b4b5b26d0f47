"""Chunked files with wrong headers: whole where that is evident, refused where they were cut off."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from kws.audio import codec, remarks

HISS = (np.random.default_rng(0).standard_normal(16001) * 3000).astype(np.int16)
BODY = HISS.tobytes()
FORM = codec.wav_bytes(HISS)[12:36]
TAG = b"ID3\3\0\0" + bytes([0, 0, 39, 8]) + bytes(5000)


def chunk(name: bytes, body: bytes, size: int | None = None, padded: bool = True) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (padded and len(body) % 2)


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


def written(form: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, HISS, 16000, format=form, subtype="PCM_16")
    return buffer.getvalue()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def is_whole(data: bytes, *found: str) -> bool:
    decoded = codec.decode_with_remarks(data)
    return np.array_equal(decoded.pcm, HISS) and decoded.remarks == found


WRONG_SIZES = {
    "36 too many, RIFF right": riff(FORM, chunk(b"data", BODY, len(BODY) + 36)),
    "500 too many, RIFF right": riff(FORM, chunk(b"data", BODY, len(BODY) + 500)),
    "36 too many, RIFF too": riff(FORM, chunk(b"data", BODY, len(BODY) + 36), size=len(BODY) + 72),
    "the file's": riff(FORM, chunk(b"data", BODY, len(BODY) + 44), size=len(BODY) + 80),
    "the file's, with a note": riff(
        FORM, chunk(b"LIST", bytes(30)), chunk(b"data", BODY, len(BODY) + 82), size=1 << 30
    ),
    "none": riff(FORM, chunk(b"data", BODY, 0)),
    "none at all": riff(FORM, chunk(b"data", BODY, 0), size=0),
    "none, but a start in silence": riff(FORM, chunk(b"data", bytes(9000) + BODY, 0), size=0),
    "the largest": riff(FORM, chunk(b"data", BODY, 0xFFFFFFFF), size=0xFFFFFFFF),
    "the largest signed": riff(FORM, chunk(b"data", BODY, 0x7FFFFFFF), size=0x7FFFFFFF),
    "AIFF": patched(written("AIFF"), written("AIFF").index(b"SSND") + 4, bytes(4)),
    "AU": patched(written("AU"), 8, bytes(4)),
    "CAF": patched(written("CAF"), written("CAF").index(b"data") + 4, bytes(8)),
    "Wave64": patched(written("W64"), written("W64").index(b"data") + 16, bytes(8)),
}


@pytest.mark.parametrize("data", WRONG_SIZES.values(), ids=WRONG_SIZES)
def test_a_wrong_size_in_the_header_costs_no_sample(data: bytes) -> None:
    decoded = codec.decode_with_remarks(data)
    assert np.array_equal(decoded.pcm[-len(HISS) :], HISS)
    assert decoded.remarks == (remarks.WRONG_SIZE,)
    part = codec.decode_span(io.BytesIO(data), 0.25, 0.75)
    assert np.array_equal(part, decoded.pcm[4000:12000])


@pytest.mark.parametrize("missing", [1, 2, 10, 100, 5000, len(BODY) // 2])
def test_a_file_that_was_cut_off_is_refused(missing: int) -> None:
    for data in (codec.wav_bytes(HISS), TAG + codec.wav_bytes(HISS), written("AIFF"), written("NIST")):
        with pytest.raises(codec.AudioError, match=rf"ends early: {missing} bytes"):
            codec.decode(data[:-missing])


@pytest.mark.parametrize(
    "before", [TAG, TAG + TAG, b"\0" * 100, b"some bytes \0\1 of a recorder"], ids=["tag", "tags", "zeros", "bytes"]
)
@pytest.mark.parametrize("form", ["WAV", "AIFF", "AU", "CAF", "FLAC"])
def test_bytes_before_the_header_cost_no_sample(before: bytes, form: str) -> None:
    if form == "AU" and before[:3] != b"ID3" and before[0]:
        pytest.skip("too little in its header to search for it")
    decoded = codec.decode_with_remarks(before + written(form))
    assert np.array_equal(decoded.pcm, HISS)
    assert decoded.remarks == (remarks.TAG_BEFORE,)
    assert np.array_equal(codec.decode_span(io.BytesIO(before + written(form)), 0.5, 1.0), HISS[8000:16000])
    assert codec.duration_s(io.BytesIO(before + written(form))) == len(HISS) / 16000


def test_chunks_in_any_order_and_without_padding_are_read() -> None:
    note = chunk(b"LIST", b"INFOabc", padded=False)
    for data in (riff(note, FORM, chunk(b"data", BODY)), riff(FORM, note, chunk(b"data", BODY)),
                 riff(chunk(b"data", BODY), FORM)):  # fmt: skip
        assert is_whole(data, remarks.OTHER_ORDER)
    for data in (riff(chunk(b"id3 ", bytes(5001)), FORM, chunk(b"data", BODY)), codec.wav_bytes(HISS) + TAG):
        assert is_whole(data)


def test_bytes_after_the_samples_that_no_header_counts_are_told() -> None:
    later = codec.wav_bytes(HISS) + BODY[:4001]
    assert is_whole(later, remarks.LEFT_AFTER)


def test_mp3_in_wav_is_read_as_mp3() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, HISS, 16000, format="MP3")
    mp3 = buffer.getvalue()
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16000, 4000, 1, 0, 12, 1, 2, 576, 1, 0)
    wanted = codec.decode(mp3)
    in_riff = b"RIFF" + struct.pack("<I", len(mp3) + 12) + b"RMP3" + chunk(b"data", mp3)
    assert np.array_equal(codec.decode(in_riff), wanted)
    in_wav = codec.decode(riff(chunk(b"fmt ", form), chunk(b"fact", struct.pack("<I", len(HISS))), chunk(b"data", mp3)))
    assert len(in_wav) == len(wanted)


def test_a_form_without_samples_is_refused() -> None:
    with pytest.raises(codec.AudioError, match="no samples"):
        codec.decode(riff(FORM, chunk(b"data", b""), chunk(b"LIST", bytes(30))))
    with pytest.raises(codec.AudioError, match="missing"):
        codec.decode(riff(FORM, chunk(b"LIST", bytes(30))))
