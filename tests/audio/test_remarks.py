"""Implausible sound is fixed where that is evident, else reported."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from kws.audio import codec, remarks
from tests.conftest import tone

CLIP = tone(440)


def decoded(samples: np.ndarray, rate: int = 16000, subtype: str = "PCM_16") -> codec.Decoded:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype=subtype)
    found = codec.decode_with_remarks(buffer.getvalue())
    assert np.array_equal(found.pcm, codec.decode(buffer.getvalue()))
    return found


@pytest.mark.parametrize("scale", [1, 2**8, 2**16])
def test_floats_in_the_range_of_integers_are_divided_by_full_scale(scale: int) -> None:
    found = decoded(CLIP.astype(np.float64) * scale, subtype="DOUBLE")
    assert np.array_equal(found.pcm, CLIP)
    assert found.remarks == (remarks.SCALED,)


def test_floats_that_were_resampled_in_the_range_of_integers_are_recognised() -> None:
    found = decoded(CLIP * 0.9999, subtype="FLOAT")
    assert np.abs(found.pcm - CLIP * 0.9999).max() <= 1
    assert found.remarks == (remarks.SCALED,)


def test_the_scale_is_that_of_the_file_also_for_a_quiet_part() -> None:
    samples = np.concatenate([np.ones(16000), CLIP, np.ones(16000)]).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV", subtype="FLOAT")
    part = codec.decode_span_with_remarks(buffer, 0.2, 0.8)
    assert (part.pcm == 1).all()
    assert remarks.SCALED in part.remarks


@pytest.mark.parametrize(
    ("level", "found"), [(0.5, ()), (1.0001, ()), (1.5, (remarks.CLIPPED,)), (50.3, (remarks.CLIPPED,))]
)
def test_floats_somewhat_beyond_1_are_clipped(level: float, found: tuple[str, ...]) -> None:
    wave = level * np.sin(np.arange(16000) * 0.1)
    result = decoded(wave, subtype="FLOAT")
    assert result.remarks == found
    assert np.abs(result.pcm - np.clip(np.rint(wave * 32768), -32768, 32767)).max() <= 1


def test_channels_that_cancel_out_give_the_first() -> None:
    found = decoded(np.stack([CLIP, -CLIP], axis=1))
    assert np.array_equal(found.pcm, CLIP)
    assert found.remarks == (remarks.ANTIPHASE,)


def test_other_channels_are_averaged() -> None:
    noise = (np.random.default_rng(0).standard_normal(16000) * 3000).astype(np.int16)
    assert decoded(np.stack([CLIP, noise], axis=1)).remarks == ()
    assert decoded(np.stack([CLIP, -CLIP // 2], axis=1)).remarks == ()
    assert decoded(np.stack([CLIP, CLIP * 0], axis=1)).remarks == (remarks.SILENT_CHANNEL,)


@pytest.mark.parametrize(
    ("samples", "rate", "remark"),
    [
        (CLIP * 0, 16000, remarks.SILENT),
        (CLIP * 0 + 700, 16000, remarks.CONSTANT),
        (CLIP // 4 + 8000, 16000, remarks.OFFSET),
        (CLIP[:700], 16000, remarks.SHORT),
        (CLIP, 2000, remarks.SLOW_RATE),
        (np.tile(CLIP, 30), 400_000, remarks.FAST_RATE),
    ],
    ids=["silence", "constant", "offset", "short", "slow rate", "fast rate"],
)
def test_implausible_sound_is_kept_and_told(samples: np.ndarray, rate: int, remark: str) -> None:
    assert decoded(samples.astype(np.int16), rate).remarks == (remark,)


def test_an_hour_is_too_long_for_a_word() -> None:
    assert remarks.of_samples(np.tile(CLIP[:100] - CLIP[:100].mean().astype(np.int16), 36_001), 1000) == (remarks.LONG,)


def test_a_rate_without_speech_is_refused() -> None:
    with pytest.raises(codec.AudioError, match="sample rate 1 Hz"):
        decoded(CLIP, 1)
