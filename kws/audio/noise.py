"""What clips are heard in: background recordings and synthetic rooms, held on the device once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws import keyed
from kws.audio.chance import Ints
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm

ROOMS = 64
_EARLY_SECONDS = 0.05


class NoiseBank:
    """Recordings as int16, for clips of `samples` samples.

    `rows`: all laid end to end, cut into rows of a clip's length, the rest dropped (the seed's way). `windows`: a
    clip's length from anywhere inside one recording. Either is 0 where there is too little noise for one.
    """

    def __init__(self, recordings: Sequence[Pcm], samples: int, device: torch.device) -> None:
        usable = [recording for recording in recordings if len(recording) >= samples]
        short = [recording for recording in recordings if 0 < len(recording) < samples]
        joined = np.concatenate([np.zeros(0, np.int16), *usable, *short])
        self._samples, self._joined = samples, torch.from_numpy(joined).to(device)
        self._starts = np.cumsum([0] + [len(recording) for recording in usable])[:-1]
        # How many windows start in a recording and those before it.
        self._ends = np.cumsum([0] + [len(recording) - samples + 1 for recording in usable])
        self.rows, self.windows = len(joined) // samples, int(self._ends[-1])

    def row(self, numbers: Ints) -> Tensor:
        """Rows by their numbers (B,), float (B, samples)."""
        table = self._joined[: self.rows * self._samples].view(self.rows, self._samples)
        return table.index_select(0, torch.from_numpy(numbers).to(table.device)).float() / 32768.0

    def window(self, numbers: Ints) -> Tensor:
        """Windows by their numbers (B,), float (B, samples)."""
        which = np.searchsorted(self._ends, numbers, side="right") - 1
        starts = torch.from_numpy(self._starts[which] + numbers - self._ends[which])
        # A view with a row for every start: picking rows copies them whole, a place at a time took six times as long.
        return (
            self._joined.unfold(0, self._samples, 1).index_select(0, starts.to(self._joined.device)).float() / 32768.0
        )


def rooms(seconds: tuple[float, float], seed: int, device: torch.device, count: int = ROOMS) -> Tensor:
    """Impulse responses of `count` synthetic rooms, (count, R) float, of unit energy, the direct sound first.

    The direct sound, then noise that falls by 60 dB in the room's reverberation time, from `seconds`, at a ratio of
    direct to reflected energy between 0 and 15 dB. Source of the model: Polack, "La transmission de l'energie sonore
    dans les salles", 1988: late reverberation as exponentially decaying Gaussian noise.
    """
    length = round((seconds[1] + _EARLY_SECONDS) * SAMPLE_RATE_HZ)
    time = np.arange(1, length) / SAMPLE_RATE_HZ
    tails = np.zeros((count, length), dtype=np.float32)
    for room in range(count):
        tails[room] = _room(keyed.generator("room", seed, room), time, seconds)
    return torch.from_numpy(tails).to(device)


def _room(
    rng: np.random.Generator, time: npt.NDArray[np.float64], seconds: tuple[float, float]
) -> npt.NDArray[np.float64]:
    decay, ratio_db, gap = rng.uniform(*seconds), rng.uniform(0.0, 15.0), rng.uniform(0.001, 0.01)
    tail = rng.standard_normal(len(time)) * 10.0 ** (-3.0 * time / decay) * (time >= gap)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.linalg.norm(tail)
    response = np.concatenate([[1.0], tail])
    found: npt.NDArray[np.float64] = response / np.linalg.norm(response)
    return found
