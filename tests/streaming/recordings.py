"""Recordings for the tests of continuous audio: loud and quiet sounds with pauses."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm


def recording(seconds: float, seed: int = 0) -> Pcm:
    """Tones and noise that change four times a second, and digital silence now and then: int16 (T,)."""
    numbers, length = np.random.default_rng(seed), SAMPLE_RATE_HZ // 4
    parts = []
    for number in range(int(np.ceil(seconds * 4))):
        tone = np.sin(2 * np.pi * numbers.uniform(80, 4000) * np.arange(length) / SAMPLE_RATE_HZ)
        sound = 10.0 ** numbers.uniform(0.5, 4.0) * (tone + 0.1 * numbers.standard_normal(length))
        parts.append(sound * (number % 5 != 3))
    return np.concatenate(parts).clip(-32768, 32767).astype(np.int16)[: round(seconds * SAMPLE_RATE_HZ)]


def in_chunks(pcm: Pcm, samples: int) -> Iterator[Pcm]:
    """The recording in chunks of `samples` samples; the last one may be shorter."""
    return (pcm[at : at + samples] for at in range(0, len(pcm), samples))
