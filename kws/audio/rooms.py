"""Synthetic rooms: how a sound's reflections arrive, drawn from a generator."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kws.audio.codec import SAMPLE_RATE_HZ

_EARLY_SECONDS = 0.05


def response(rng: np.random.Generator, seconds: tuple[float, float]) -> npt.NDArray[np.float64]:
    """The impulse response of one room, (R,), of unit energy, the direct sound first.

    The direct sound, then noise that falls by 60 dB in the room's reverberation time, from `seconds`, at a ratio of
    direct to reflected energy between 0 and 15 dB. Source of the model: Polack, "La transmission de l'energie sonore
    dans les salles", 1988: late reverberation as exponentially decaying Gaussian noise.
    """
    time = np.arange(1, round((seconds[1] + _EARLY_SECONDS) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    decay, ratio_db, gap = rng.uniform(*seconds), rng.uniform(0.0, 15.0), rng.uniform(0.001, 0.01)
    tail = rng.standard_normal(len(time)) * 10.0 ** (-3.0 * time / decay) * (time >= gap)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.linalg.norm(tail)
    found = np.concatenate([[1.0], tail])
    heard: npt.NDArray[np.float64] = found / np.linalg.norm(found)
    return heard
