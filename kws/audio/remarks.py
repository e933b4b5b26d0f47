"""Remarks about a recording: what was fixed or looks implausible. The same text each time, so that they can be counted.

A recording with a remark is used. What cannot be used is an AudioError.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TAG_BEFORE = "bytes before the header, such as a tag, were skipped"
WRONG_SIZE = "the size in the header is wrong; everything there was read"
OTHER_ORDER = "chunks in an unusual order or without padding; read anyway"
LEFT_AFTER = "bytes after the samples, which the header does not count, were left out"
FFMPEG = "read with ffmpeg"
FFMPEG_ERRORS = "ffmpeg read it but reported errors; listen to it"
FFMPEG_INSTEAD = "read with ffmpeg, as libsndfile gave up"
SCALED = "float samples in the range of integers, divided by full scale"
CLIPPED = "many float samples beyond 1, clipped"
ANTIPHASE = "channels of opposite sign, which cancel out: only the first was used"
SILENT_CHANNEL = "one of two channels is silent; the average has half the level"
SILENT = "digital silence"
CONSTANT = "one value throughout, no sound"
OFFSET = "a large DC offset"
SLOW_RATE = "a sample rate below 4 kHz"
FAST_RATE = "a sample rate above 384 kHz"
SHORT = "shorter than 50 ms"
LONG = "longer than an hour"
NO_SOUND = frozenset({SILENT, CONSTANT})
NOT_OF_NOISE = frozenset({SILENT, CONSTANT, SHORT, LONG})
"""Remarks that mean nothing for background noise."""

_RATES_HZ = (4_000, 384_000)
_LENGTHS_S = (0.05, 3600)
_FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)
_OFFSET = 0.1
"""Of full scale."""
_CANCELLED = 0.01
"""Share of the channels' energy that is left in their average, below which they cancel out (-20 dB)."""
_BEYOND, _MANY = 1.05, 0.001
"""Clipping of more than this share of samples, beyond this value, is reported."""
Samples = npt.NDArray[np.float32]


def of_samples(pcm: npt.NDArray[np.int16], rate_hz: int) -> tuple[str, ...]:
    """Remarks about a clip of a word: int16 samples (T,), T >= 1, at `rate_hz`. Some microseconds where all is well."""
    found = []
    low, high = _LENGTHS_S
    if not low * rate_hz <= len(pcm) <= high * rate_hz:
        found.append(SHORT if len(pcm) < low * rate_hz else LONG)
    some = pcm[:: max(1, len(pcm) // 256)]  # looking at all of them would take 20 us a clip
    total, first = int(some.sum()), int(pcm[0])
    if total == first * len(some) and (pcm == first).all():
        found.append(CONSTANT if first else SILENT)
    elif abs(total) > _OFFSET * 32768 * len(some) and abs(float(pcm.mean())) > _OFFSET * 32768:
        found.append(OFFSET)
    return tuple(found)


def of_rate(rate_hz: int) -> tuple[str, ...]:
    """The remark about a file's sample rate."""
    low, high = _RATES_HZ
    if low <= rate_hz <= high:
        return ()
    return (SLOW_RATE if rate_hz < low else FAST_RATE,)


def full_scale(peak: float, integers: bool) -> float:
    """What float samples are to be divided by: 1, or the full scale of integers where that is evident.

    peak: of the whole file. integers: whether all samples are integers. Floats somewhat beyond 1 are common (filters
    and lossy codecs overshoot); nothing overshoots by 48 dB.
    """
    if not peak > (2.0 if integers else 256.0):
        return 1.0
    return next((scale for scale in _FULL_SCALES if peak <= 1.1 * scale), 1.0)


def mono(samples: Samples) -> tuple[Samples, tuple[str, ...]]:
    """The average of the channels, (T, channels) -> (T,); of two channels that cancel out, the first. With remarks."""
    average: Samples = samples.mean(axis=1)
    if samples.shape[1] != 2:
        return average, ()
    first_only, found = of_channels(*(float(np.dot(one, one)) for one in (samples[:, 0], samples[:, 1], average)))
    return samples[:, 0] if first_only else average, found


def of_channels(first: float, second: float, average: float) -> tuple[bool, tuple[str, ...]]:
    """Whether only the first of two channels is to be used, with remarks, from the energies of both and of their
    average."""
    if not (first and second):
        return False, (SILENT_CHANNEL,) if first or second else ()
    cancel = 2 * average < _CANCELLED * (first + second)
    return cancel, (ANTIPHASE,) if cancel else ()


def of_floats(samples: Samples) -> tuple[str, ...]:
    """The remark about float samples, any shape, of which many are beyond 1."""
    if samples.min(initial=0.0) >= -_BEYOND and samples.max(initial=0.0) <= _BEYOND:
        return ()
    return of_beyond(count_beyond(samples), samples.size)


def count_beyond(samples: Samples) -> int:
    """How many float samples are clearly beyond 1."""
    return int(np.count_nonzero(samples > _BEYOND) + np.count_nonzero(samples < -_BEYOND))


def of_beyond(beyond: int, size: int) -> tuple[str, ...]:
    """The remark about so many of `size` samples beyond 1."""
    return (CLIPPED,) if beyond > _MANY * size else ()
