"""Samples of any rate, in chunks -> 16 kHz int16 samples, equal to codec.pcm_from_float of all of them at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr  # type: ignore[import-untyped]

from kws.audio import codec


class Resampler:
    """One channel of float samples at `rate_hz`, chunk by chunk, with soxr's quality HQ as everywhere in kws.

    Some ms of samples stay inside until later ones, or the end, are there. Raises AudioError for a rate at which there
    is no speech.
    """

    def __init__(self, rate_hz: int) -> None:
        codec.check_rate(rate_hz)
        self._stream = None
        if rate_hz != codec.SAMPLE_RATE_HZ:
            self._stream = soxr.ResampleStream(rate_hz, codec.SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")

    def push(self, samples: npt.NDArray[np.float32]) -> codec.Pcm:
        """Samples (n,) in [-1, 1] -> complete samples at 16 kHz, (m,). Raises AudioError for NaN and infinity."""
        return self._converted(samples, last=False)

    def finish(self) -> codec.Pcm:
        """The last samples. The resampler cannot be used after it."""
        return self._converted(np.zeros(0, np.float32), last=True)

    def _converted(self, samples: npt.NDArray[np.float32], last: bool) -> codec.Pcm:
        codec.check_finite(samples)
        if self._stream is not None:
            samples = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32), last)
        return codec.rounded(samples)
