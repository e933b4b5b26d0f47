"""Synthetic rooms: random impulse responses for reverberation. Free of torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kws.audio.codec import SAMPLE_RATE_HZ

_EARLY_SECONDS = 0.05


def impulse_response(rng: np.random.Generator, seconds: tuple[float, float]) -> npt.NDArray[np.float64]:
    """The impulse response of one random room, (R,), of unit energy, beginning with the direct sound.

    The direct sound is followed, after 1 to 10 ms, by Gaussian noise that decays by 60 dB within the room's
    reverberation time, which is drawn from `seconds`. The ratio of direct to reflected energy is 0 to 15 dB.
    Source of the model: Polack, "La transmission de l'energie sonore dans les salles", 1988.
    """
    time = np.arange(1, round((seconds[1] + _EARLY_SECONDS) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    decay, ratio_db, gap = rng.uniform(*seconds), rng.uniform(0.0, 15.0), rng.uniform(0.001, 0.01)
    tail = rng.standard_normal(len(time)) * 10.0 ** (-3.0 * time / decay) * (time >= gap)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.linalg.norm(tail)
    whole = np.concatenate([[1.0], tail])
    normalised: npt.NDArray[np.float64] = whole / np.linalg.norm(whole)
    return normalised
