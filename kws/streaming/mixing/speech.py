"""Where the speech in a clip is, and how loud sound is: the definitions behind the labels and SNRs of `kws mix`.

    clip -> levels of 10 ms and noise floor (kws/data/excerpt.py) -> frames within 26 dB of the loudest above the floor
         -> runs of them, joined over pauses of up to 0.2 s -> the run with the largest sum: start and end of the speech

In a clip without a pause, such as one that was cut tightly, no noise floor can be measured: it is taken as 0, and the
clip counts as speech only if it is loud.

The level of sound is its speech-active RMS: over the frames of 10 ms that are at most 20 dB below the 95th percentile
of all its frames. Pauses do not count; for steady noise it is the ordinary RMS.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.data.excerpt import frame_levels, noise_floor

Wave = npt.NDArray[np.float32]
"""Samples (T,) at 16 kHz, full scale 1.0."""
FRAME = SAMPLE_RATE_HZ // 100
_PAUSE, _FEWEST = 20, 5
"""Frames: the longest pause inside a word, and the shortest speech."""
_QUIETEST, _QUIETEST_STEADY = 30, 328
"""The loudest 10 ms of audible speech above the noise floor, in int16 steps (-61 dB of full scale); and in a clip
without a pause (-40 dB), which otherwise counts as noise."""
_SPEECH_BELOW, _ACTIVE_BELOW = 20, 10
"""A frame counts if it is at least 1/N of the loudest: N = 20 (26 dB) for the bounds of speech, so that a soft s is
inside, and N = 10 (20 dB) for its level."""
SILENCE_DB = -100.0
"""The level of digital silence, and the lowest one."""


class Speech(NamedTuple):
    """First sample of the speech in a clip and the sample after its last."""

    start: int
    end: int


def find_speech(pcm: Pcm) -> Speech | None:
    """The speech in a clip, int16 (T,); None where nothing is loud enough for 50 ms."""
    levels = frame_levels(pcm)
    floor = noise_floor(levels)
    # The median over 3 frames removes clicks.
    steady = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(levels, 1), 3), axis=1)
    has_pause = 2 * floor < steady.max()
    levels, steady = (np.maximum(each - floor * has_pause, 0) for each in (levels, steady))
    loudest = steady.max()
    if loudest < (_QUIETEST if has_pause else _QUIETEST_STEADY):
        return None
    loud = np.flatnonzero(steady * _SPEECH_BELOW >= loudest)
    runs = np.split(loud, np.flatnonzero(np.diff(loud) > _PAUSE) + 1)
    run = max(runs, key=lambda frames: int(levels[frames].sum()))
    first, last = int(run[0]), int(run[-1])
    if last - first + 1 < _FEWEST:
        return None
    return Speech(first * FRAME, min((last + 1) * FRAME, len(pcm)))


def active_db(wave: Wave) -> float:
    """The speech-active RMS of samples (T,), in dB of full scale (0 dB: RMS 1.0); at least SILENCE_DB."""
    usable = len(wave) // FRAME * FRAME
    frames = (wave[:usable] if usable else np.resize(wave, FRAME)).reshape(-1, FRAME).astype(np.float64)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME
    loud = np.percentile(power, 95)
    active = power[power * _ACTIVE_BELOW**2 >= loud].mean()
    return max(SILENCE_DB, 10 * math.log10(active)) if active > 0 else SILENCE_DB


def amplitude(db: float) -> float:
    """The factor of a gain in dB."""
    return float(10 ** (db / 20))
