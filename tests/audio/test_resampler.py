"""Resampling in chunks is resampling of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from kws.audio import codec
from kws.audio.resampler import Resampler

NOISE = (0.3 * np.random.default_rng(0).standard_normal(50_000)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("chunk", [37, 1_000, 60_000])
def test_chunks_of_any_size_give_the_samples_of_the_whole(rate: int, chunk: int) -> None:
    resampler = Resampler(rate)
    parts = [resampler.push(NOISE[at : at + chunk]) for at in range(0, len(NOISE), chunk)]
    assert np.array_equal(np.concatenate([*parts, resampler.finish()]), codec.pcm_from_float(NOISE, rate))


def test_what_is_no_sound_is_refused() -> None:
    with pytest.raises(codec.AudioError, match="3 Hz"):
        Resampler(3)
    with pytest.raises(codec.AudioError, match="finite"):
        Resampler(16_000).push(np.array([np.inf], np.float32))
