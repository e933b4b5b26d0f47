"""Background recordings and synthetic room responses, held on the device for the augmentation chain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kws import counter_rng
from kws.audio.augment_parameters import Ints
from kws.audio.codec import Pcm
from kws.audio.rooms import impulse_response
from kws.transfers import to_device

NUM_ROOMS = 64


class NoiseBank:
    """Background recordings (int16), cut to clips of `samples` samples in two ways.

    Rows: all recordings end to end, cut into rows of a clip's length; the remainder is dropped (preset `classic`).
    Windows: every stretch of a clip's length inside one recording.
    `num_rows` and `num_windows` are 0 where there is too little noise for one.
    """

    def __init__(self, recordings: Sequence[Pcm], samples: int, device: torch.device) -> None:
        long = [recording for recording in recordings if len(recording) >= samples]
        short = [recording for recording in recordings if 0 < len(recording) < samples]
        joined = np.concatenate([np.zeros(0, np.int16), *long, *short])
        self._samples, self._joined = samples, to_device(torch.from_numpy(joined), device)
        self._starts = np.cumsum([0] + [len(recording) for recording in long])[:-1]
        # Number of the first window of each recording, and the number of all windows at the end.
        self._first_windows = np.cumsum([0] + [len(recording) - samples + 1 for recording in long])
        self.num_rows, self.num_windows = len(joined) // samples, int(self._first_windows[-1])

    def window_starts(self, numbers: Ints) -> Ints:
        """First samples of windows, by number (B,)."""
        recording = np.searchsorted(self._first_windows, numbers, side="right") - 1
        starts: Ints = self._starts[recording] + numbers - self._first_windows[recording]
        return starts

    def rows(self, numbers: Tensor) -> Tensor:
        """Rows by number (B,) -> float (B, samples)."""
        table = self._joined[: self.num_rows * self._samples].view(self.num_rows, self._samples)
        return table.index_select(0, numbers).float() / 32768.0

    def windows(self, starts: Tensor) -> Tensor:
        """Windows by their first sample (B,) -> float (B, samples)."""
        # A view with one row for every start: index_select copies whole rows; gathering single samples took six times
        # as long.
        return self._joined.unfold(0, self._samples, 1).index_select(0, starts).float() / 32768.0


def room_responses(seconds: tuple[float, float], seed: int, device: torch.device, count: int = NUM_ROOMS) -> Tensor:
    """Impulse responses of `count` synthetic rooms with reverberation times from `seconds`, float (count, R)."""
    responses = [impulse_response(counter_rng.generator("room", seed, room), seconds) for room in range(count)]
    return to_device(torch.from_numpy(np.stack(responses).astype(np.float32)), device)
