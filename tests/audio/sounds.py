"""Test clips of all kinds, generated, and helpers to make batches and transform parameters of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from kws.audio.augment_parameters import Ints, TransformParameters
from kws.audio.codec import Pcm
from tests.conftest import tone

SAMPLES = 16000
HEADROOM = 20001
"""TrainingSet.read_samples for clips of one second where `speed` is 0.2."""


@dataclasses.dataclass(frozen=True)
class Sounds:
    """Clips of various lengths, and noise recordings."""

    clips: list[Pcm]
    noises: list[Pcm]

    def clip(self, number: int) -> Pcm:
        """Clip `number`, counted in a circle."""
        return self.clips[number % len(self.clips)]

    def noise_rows(self) -> np.ndarray:
        """As NoiseBank.rows: all recordings end to end, cut into rows of one second; float."""
        joined = np.concatenate(self.noises)
        return joined[: len(joined) // SAMPLES * SAMPLES].reshape(-1, SAMPLES) / 32768.0


def generated() -> Sounds:
    """Tones, white noise, a sweep, clicks, quiet and loud clips; of 0.3, 1 and 1.4 s."""
    numbers, time = np.random.default_rng(3), np.arange(SAMPLES) / SAMPLES
    sweep = (9000 * np.sin(2 * np.pi * (100 + 3000 * time) * time) + numbers.normal(0, 30, SAMPLES)).astype(np.int16)
    clicks = (300 * numbers.standard_normal(SAMPLES)).astype(np.int16)
    clicks[2000::3000] = 20000
    quiet = numbers.integers(-3, 4, SAMPLES).astype(np.int16)
    loud = np.clip(numbers.standard_normal(SAMPLES) * 20000, -32768, 32767).astype(np.int16)
    swelling = (tone(700) * np.sin(np.pi * time)).astype(np.int16)
    tones = [tone(hz, seed=hz) for hz in (150, 440, 2500)]
    noises = [(numbers.standard_normal(SAMPLES * 5 // 2) * level).astype(np.int16) for level in (300, 3000)]
    clips = [*tones, sweep, tone(300, 4800), tone(600, 22400), clicks, quiet, loud, swelling]
    return Sounds(clips, noises)


def batch(clips: Sequence[Pcm], samples: int = HEADROOM) -> tuple[torch.Tensor, Ints]:
    """The clips padded with zeros, int16 (B, samples), and their lengths (B,), as Reader returns them."""
    wave, lengths = np.zeros((len(clips), samples), np.int16), np.zeros(len(clips), np.int64)
    for row, clip in enumerate(clips):
        kept = clip[:samples]
        wave[row, : len(kept)], lengths[row] = kept, len(kept)
    return torch.from_numpy(wave), lengths


def transforms(
    count: int, gain: float = 1.0, start: float = 0.0, step: float = 1.0, rate: float = 1.0, shift: int = 0
) -> TransformParameters:
    """The same parameters for each of `count` clips."""
    floats = [np.full(count, value, dtype=np.float64) for value in (gain, start, step, rate)]
    return TransformParameters(*floats, np.full(count, shift, dtype=np.int64))
