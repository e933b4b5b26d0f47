"""Waveforms as users of the Python interface pass them -> checked samples, one wave or a batch.

(T,) int16, or float in [-1, 1]                              one wave
(B, T), or a list of B arrays (T,) of different lengths      a batch
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kws.audio import codec
from kws.errors import UsageError

_MOST_CHANNELS = 16
"""An array (T, C) with at most so many columns, and more rows, is taken for samples of several channels."""


def to_pcm(wave: npt.ArrayLike, rate: int) -> codec.Pcm:
    """One wave (T,) -> 16 kHz int16 samples. Raises UsageError for any other kind of array."""
    floats = to_floats(wave)
    if len(floats) == 0:
        raise UsageError("wave: shape (0,), wanted one channel of at least one sample")
    try:
        return codec.pcm_from_float(floats, rate)
    except codec.AudioError as error:
        raise UsageError(f"wave: {error}") from error


def to_floats(wave: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Samples (T,), also none -> float32 in [-1, 1]. Raises UsageError for any other kind of array."""
    samples = np.asarray(wave)
    if samples.ndim != 1:
        raise UsageError(f"wave: shape {samples.shape}, wanted one channel of at least one sample")
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise UsageError(f"wave: samples of type {samples.dtype}, wanted int16, or float in [-1, 1]")
    return codec.to_float(samples) if samples.dtype == np.int16 else samples.astype(np.float32)


def batch_of(waves: Any) -> list[Any] | None:
    """The waves of a batch; None for a single wave. Raises UsageError for arrays of more than two axes, and for those
    that look like one wave of several channels."""
    if isinstance(waves, list | tuple) and waves and np.ndim(waves[0]) == 1:
        return list(waves)
    shape = np.shape(waves)
    if len(shape) < 2:
        return None
    if len(shape) > 2:
        raise UsageError(f"wave: shape {shape}, wanted (T,), or (B, T) for a batch")
    if 1 < shape[1] <= _MOST_CHANNELS < shape[0]:
        raise UsageError(
            f"wave: shape {shape} looks like {shape[1]} channels; wanted (T,), as wave.mean(axis=1) gives, or (B, T)"
        )
    return list(np.asarray(waves))
