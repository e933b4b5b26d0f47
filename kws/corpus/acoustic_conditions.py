"""Acoustic conditions of synthetic clips: position and level of the word, a room, background noise.

word (N,) -> position, gain, noise floor -> room -> background noise at a signal-to-noise ratio -> clip

All random draws are from the generator that is passed in.
"""

from __future__ import annotations

import numpy as np

from kws.audio import rooms
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.corpus.espeak import Audio

MIN_SAMPLES, MAX_SAMPLES = 9_600, 16_000  # of a clip: 0.6 s and 1.0 s
ROOM_SECONDS = (0.1, 0.4)  # reverberation times, as frontend.reverb_seconds has them
_LOUDEST = 0.95


def place_in_clip(word: Audio, rng: np.random.Generator) -> Audio:
    """The word at a random position and level, over a faint noise floor: samples (N,), 0.6 s to 1 s."""
    length = max(int(rng.integers(MIN_SAMPLES, MAX_SAMPLES + 1)), word.size)
    start = int(rng.integers(0, length - word.size + 1))
    peak, floor = 10 ** (rng.uniform(-24, -3) / 20), 10 ** (rng.uniform(-75, -60) / 20)
    clip = floor * rng.standard_normal(length, np.float32)
    clip[start : start + word.size] += peak * word / np.abs(word).max()
    return clip


def add_reverberation(clip: Audio, rng: np.random.Generator) -> Audio:
    """The clip in a random synthetic room: (N,) -> (N,), with the same RMS unless it would clip."""
    response = rooms.impulse_response(rng, ROOM_SECONDS)
    size = 1 << (clip.size + response.size - 2).bit_length()  # a power of two: FFTs of prime lengths are slow
    reverberant = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(response, size), size)[: clip.size]
    return _limited(reverberant * (_rms(clip) / _rms(reverberant)))


def add_noise(clip: Audio, snr_db: tuple[float, float], rng: np.random.Generator) -> Audio:
    """The clip with random noise of a colour between white and brown, at a signal-to-noise ratio within `snr_db`:
    (N,) -> (N,). Scaled down where it would clip."""
    noise = coloured_noise(rng, rng.uniform(0.0, 2.0), MAX_SAMPLES)[: clip.size]
    return _limited(clip + noise * (_rms(clip) / _rms(noise) * 10 ** (-rng.uniform(*snr_db) / 20)))


def coloured_noise(rng: np.random.Generator, slope: float, size: int, comb: int = 1) -> Audio:
    """Noise (size,) above 20 Hz with power proportional to frequency ** -slope; only in every `comb`-th FFT bin."""
    spectrum, freqs = np.fft.rfft(rng.standard_normal(size)), np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
    spectrum *= np.where(freqs < 20, 0, np.maximum(freqs, 20) ** (-slope / 2))
    spectrum[np.arange(spectrum.size) % comb != 0] = 0
    return np.fft.irfft(spectrum, size).astype(np.float32)


def _rms(clip: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> float:
    return float(np.sqrt(np.mean(np.square(clip, dtype=np.float64))))


def _limited(clip: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> Audio:
    return (clip * min(1.0, _LOUDEST / float(np.abs(clip).max()))).astype(np.float32)
