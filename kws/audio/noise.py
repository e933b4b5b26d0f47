"""What clips are heard in: background recordings and synthetic rooms, held on the device once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kws import counter_rng
from kws.audio.augment_parameters import Ints
from kws.audio.codec import Pcm
from kws.audio.rooms import response

ROOMS = 64


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
    """Impulse responses of `count` synthetic rooms (kws.audio.rooms), (count, R) float."""
    responses = [response(counter_rng.generator("room", seed, room), seconds) for room in range(count)]
    return torch.from_numpy(np.stack(responses).astype(np.float32)).to(device)
