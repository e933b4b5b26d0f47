"""Where a made word is heard: its place in the clip, a room, background noise. Every draw is the given generator's.

word (N,) -> place, gain, noise floor -> room -> background noise at a ratio -> clip
"""

from __future__ import annotations

import numpy as np

from kws.audio import rooms
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.corpus.espeak import Audio

MIN_SAMPLES, MAX_SAMPLES = 9_600, 16_000  # of a clip: 0.6 s and 1.0 s
ROOM_SECONDS = (0.1, 0.4)  # reverberation times, as frontend.reverb_seconds has them
_LOUDEST = 0.95


def place(word: Audio, rng: np.random.Generator) -> Audio:
    """Put the word at a random place and gain over a faint noise floor: samples (N,), 0.6 s <= N <= 1 s."""
    length = max(int(rng.integers(MIN_SAMPLES, MAX_SAMPLES + 1)), word.size)
    start = int(rng.integers(0, length - word.size + 1))
    peak, floor = 10 ** (rng.uniform(-24, -3) / 20), 10 ** (rng.uniform(-75, -60) / 20)
    clip = floor * rng.standard_normal(length, np.float32)
    clip[start : start + word.size] += peak * word / np.abs(word).max()
    return clip


def in_room(clip: Audio, rng: np.random.Generator) -> Audio:
    """Convolved with the response of a room of its own, as long and as loud as before, but for what would clip."""
    response = rooms.impulse_response(rng, ROOM_SECONDS)
    size = 1 << (clip.size + response.size - 2).bit_length()  # a power of two: a sum of lengths may be a prime
    heard = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(response, size), size)[: clip.size]
    return _limited(heard * (_rms(clip) / _rms(heard)))


def with_noise(clip: Audio, snr_db: tuple[float, float], rng: np.random.Generator) -> Audio:
    """With noise of any colour from white to brown, made for this clip alone, at a ratio of clip to noise from
    `snr_db`; the whole made softer where it would clip."""
    noise = coloured(rng, rng.uniform(0.0, 2.0), MAX_SAMPLES)[: clip.size]
    return _limited(clip + noise * (_rms(clip) / _rms(noise) * 10 ** (-rng.uniform(*snr_db) / 20)))


def coloured(rng: np.random.Generator, slope: float, size: int, comb: int = 1) -> Audio:
    """Noise (size,) whose power falls as frequency to the -slope from 20 Hz up; only every `comb`-th bin."""
    spectrum, freqs = np.fft.rfft(rng.standard_normal(size)), np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    spectrum *= np.where(freqs < 20, 0, np.maximum(freqs, 20) ** (-slope / 2))
    spectrum[np.arange(spectrum.size) % comb != 0] = 0
    return np.fft.irfft(spectrum, size).astype(np.float32)


def _rms(clip: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    return float(np.sqrt(np.mean(np.square(clip, dtype=np.float64))))


def _limited(clip: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Audio:
    return (clip * min(1.0, _LOUDEST / float(np.abs(clip).max()))).astype(np.float32)
