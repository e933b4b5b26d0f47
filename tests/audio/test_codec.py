import contextlib
import io
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kws.audio import codec, ffmpeg

CLIP = (np.random.default_rng(0).standard_normal(16000) * 3000).astype(np.int16)
EDGES = np.array([-32768, -32767, -1, 0, 1, 32766, 32767], dtype=np.int16)


def encoded(samples: np.ndarray, rate: int = 16000, subtype: str = "PCM_16", file_format: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=file_format, subtype=subtype)
    return buffer.getvalue()


@given(arrays.arrays(np.int16, st.integers(1, 300)))
def test_pcm16_is_decoded_bit_for_bit(samples: codec.Pcm) -> None:
    assert np.array_equal(codec.decode(codec.wav_bytes(samples)), samples)
    assert np.array_equal(codec.decode(codec.flac_bytes(samples)), samples)


def test_our_wav_is_read_by_soundfile() -> None:
    data = codec.wav_bytes(CLIP)
    read, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert (rate, len(data)) == (16000, codec.WAV_HEADER_BYTES + 2 * len(CLIP))
    assert np.array_equal(read, CLIP)
    assert data == encoded(CLIP)


def test_only_a_plain_wav_may_be_read_without_decoding() -> None:
    plain = codec.wav_bytes(CLIP)
    assert codec.is_plain_wav(plain)
    others = [
        codec.flac_bytes(CLIP),
        encoded(CLIP, 8000),
        encoded(np.stack([CLIP, CLIP], 1)),
        plain[:-2],
        plain + b"\0",
    ]
    assert not any(map(codec.is_plain_wav, [*others, plain[:44], b""]))


def test_channels_are_averaged() -> None:
    low, high = CLIP // 2, CLIP // 2 + 100
    mixed = codec.decode(encoded(np.stack([low, high], axis=1)))
    assert np.array_equal(mixed, low + 50)


@pytest.mark.parametrize(("rate", "samples"), [(8000, 8000), (48000, 48000), (44100, 22050), (22050, 11025)])
def test_other_rates_are_resampled_to_the_same_duration_and_pitch(rate: int, samples: int) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    pcm = codec.decode(encoded(wave, rate))
    assert abs(len(pcm) - samples * 16000 / rate) <= 1
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(pcm)) / 16000)
    inner = slice(400, -400)
    assert np.abs(pcm[inner] / 32768 - wanted[inner]).max() < 2e-3


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_finer_sample_formats_round_to_the_same_16_bits(subtype: str) -> None:
    samples = np.concatenate([CLIP, EDGES])
    assert np.array_equal(codec.decode(encoded(samples / 32768, subtype=subtype)), samples)


def test_floats_beyond_full_scale_are_clipped_not_wrapped() -> None:
    pcm = codec.decode(encoded(np.array([2.0, -2.0, 1.0, 0.25]), subtype="FLOAT"))
    assert pcm.tolist() == [32767, -32768, 32767, 8192]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(wrong: float) -> None:
    with pytest.raises(codec.AudioError, match="not finite"):
        codec.decode(encoded(np.array([0.0, wrong, 0.0]), subtype="FLOAT"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty file"),
        (b"hello, this is text\n" * 50, "not readable as audio"),
        (codec.wav_bytes(CLIP)[:30], "samples are missing"),
        (codec.wav_bytes(CLIP)[:44], "32000 bytes"),
        (codec.wav_bytes(np.array([], dtype=np.int16)), "no samples"),
        (codec.wav_bytes(CLIP)[:-1], "1 bytes"),
        (codec.wav_bytes(CLIP)[:-1000], "1000 bytes"),
        (encoded(CLIP / 32768, 44100, "FLOAT")[:-400], "400 bytes"),
        (codec.flac_bytes(CLIP)[:-3000], "not readable as audio"),
        (codec.flac_bytes(CLIP)[:20], "not readable as audio"),
    ],
    ids=[
        "empty",
        "text",
        "header cut",
        "no samples left",
        "no samples",
        "a byte",
        "a part",
        "float",
        "flac",
        "flac header",
    ],
)
def test_damaged_files_say_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(codec.AudioError, match=says) as caught:
        codec.decode(data)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_that_does_not_know_its_length_is_read(size: int) -> None:
    data = bytearray(codec.wav_bytes(CLIP))
    data[40:44] = size.to_bytes(4, "little")
    assert np.array_equal(codec.decode(bytes(data)), CLIP)


def test_other_chunks_around_the_samples_are_ignored() -> None:
    plain = codec.wav_bytes(CLIP)
    note = b"LIST" + (5).to_bytes(4, "little") + b"abcde\0"
    both = plain[:36] + note + plain[36:] + note
    data = both[:4] + (len(both) - 8).to_bytes(4, "little") + both[8:]
    assert np.array_equal(codec.decode(data), CLIP)
    with pytest.raises(codec.AudioError, match="10 bytes"):
        codec.decode(data[: -len(note) - 10])


@pytest.fixture
def no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A PATH without ffmpeg."""
    monkeypatch.setenv("PATH", "")
    ffmpeg.program.cache_clear()
    yield
    ffmpeg.program.cache_clear()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 60), value=st.integers(0, 255))
def test_a_damaged_header_raises_at_most_an_audio_error(no_ffmpeg: None, at: int, value: int) -> None:
    data = bytearray(codec.wav_bytes(CLIP[:200]))
    data[at] = value
    with contextlib.suppress(codec.AudioError):
        assert codec.decode(bytes(data)).dtype == np.int16


@pytest.mark.parametrize(
    ("samples", "rate", "says"),
    [
        ([], 16000, "shorter"),
        ([0.5], 48000, "shorter"),
        ([0.5], 0, "0 Hz"),
        ([0.5], -8, "-8 Hz"),
    ],
)
def test_floats_that_give_no_sample_are_refused(samples: list[float], rate: int, says: str) -> None:
    with pytest.raises(codec.AudioError, match=says):
        codec.pcm_from_float(np.array(samples, dtype=np.float32), rate)


def test_one_sample_is_enough() -> None:
    assert codec.decode(codec.wav_bytes(EDGES[:1])).tolist() == [-32768]


@pytest.mark.parametrize(("name", "wanted"), [("a.WAV", True), ("b/c.flac", True), ("a.txt", False), ("wav.", False)])
def test_audio_is_recognised_by_the_file_extension(name: str, wanted: bool) -> None:
    assert codec.is_audio(name) is wanted


LONG = np.random.default_rng(1).standard_normal(31 * 16000) * 0.05 * (1 + np.sin(np.arange(31 * 16000) / 16000))


@pytest.mark.parametrize(
    ("form", "subtype", "rate", "channels"),
    [
        ("WAV", "PCM_16", 16000, 1),
        ("WAV", "PCM_24", 44100, 2),
        ("WAV", "PCM_16", 8000, 1),
        ("FLAC", "PCM_16", 48000, 1),
        ("AIFF", "PCM_16", 12345, 1),
        ("OGG", "OPUS", 16000, 1),
        ("OGG", "VORBIS", 16000, 1),
        ("OGG", "VORBIS", 44100, 2),
    ],
)
def test_a_span_equals_that_part_of_the_whole(form: str, subtype: str, rate: int, channels: int) -> None:
    data = encoded(np.stack([LONG] * channels, axis=1), rate, subtype, form)
    whole = codec.decode(data).astype(int)
    seconds = len(LONG) / rate
    assert codec.duration_s(io.BytesIO(data)) == seconds
    for start in (0.0, 0.4321, seconds / 3, seconds - 1.5, seconds - 0.6):  # a Vorbis page is some seconds long
        span = codec.decode_span(io.BytesIO(data), start, start + 0.6)
        wanted = whole[round(start * 16000) :][: len(span)]
        assert len(span) in (round((start + 0.6) * 16000) - round(start * 16000), len(wanted))
        assert np.abs(span - wanted).max() <= 1


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.2), (1.5, 2.0), (-0.1, 0.5), (0.5, 0.5), (0.7, 0.3)])
def test_a_span_outside_the_recording_is_refused(start: float, end: float) -> None:
    with pytest.raises(codec.AudioError, match=rf"{start} to {end:g} s.* 1\.00 s"):
        codec.decode_span(io.BytesIO(codec.wav_bytes(CLIP)), start, end)


def test_a_span_may_end_after_the_recording_by_a_rounding_error() -> None:
    assert len(codec.decode_span(io.BytesIO(codec.wav_bytes(CLIP)), 0.5, 1.02)) == 8000
