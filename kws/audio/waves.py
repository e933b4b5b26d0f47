"""Gain, speed and shift of waves, in batches.

Two implementations give the same numbers: kws/audio/kernels.py for CPUs, tensor operations for GPUs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from torch import Tensor

from kws.audio.augment_parameters import Flags, Ints, TransformParameters


@dataclasses.dataclass(frozen=True)
class WaveTransform:
    """How the waves of B clips are changed; every tensor is (B,).

    Output sample i is read at position start + i * step of the clip, which is the first `length` samples of its row,
    by linear interpolation as in numpy.interp; the last sample holds for one step. Outside the clip is silence.
    """

    length: Tensor
    """int64."""
    gain: Tensor
    """float32."""
    start: Tensor
    """float64, as `step`: float32 is off by a thousandth of a sample at the end of a clip."""
    step: Tensor

    @classmethod
    def from_parameters(cls, transforms: TransformParameters, lengths: Ints) -> Self:
        """The transform of clips that have `lengths` (B,) samples, on the host."""
        values = (lengths, transforms.gain.astype(np.float32), transforms.start, transforms.step)
        return cls(*map(torch.from_numpy, values))

    def apply(self, wave: Tensor, samples: int) -> Tensor:
        """int16 or float (B, T) -> float (B, samples)."""
        raise NotImplementedError


class CompiledWaveTransform(WaveTransform):
    """By kws.audio.kernels, for CPUs."""

    def apply(self, wave: Tensor, samples: int) -> Tensor:
        from kws.audio import kernels  # importing numba takes half a second: only where it is needed

        out = torch.empty(len(wave), samples)
        length, gain, start, step = (
            values.numpy() for values in (self.length, self.gain * _scale(wave), self.start, self.step)
        )
        kernels.transform_waves(wave.numpy(), length, gain, start, step, out.numpy())
        return out


class BatchedWaveTransform(WaveTransform):
    """By tensor operations, for GPUs."""

    def apply(self, wave: Tensor, samples: int) -> Tensor:
        start, step, length = self.start[:, None], self.step[:, None], self.length[:, None]
        position = torch.arange(samples, device=wave.device, dtype=torch.float64) * step + start
        left = position.long().clamp_(0, wave.shape[1] - 1)
        right = torch.minimum(left + 1, (length - 1).clamp_min(0))
        before, after = wave.gather(1, left).float(), wave.gather(1, right).float()
        inside = (position >= 0) & (position < length)
        interpolated = torch.lerp(before, after, (position - left).float())
        return interpolated * inside * (self.gain * _scale(wave))[:, None]


def _scale(wave: Tensor) -> float:
    return 1.0 / 32768.0 if wave.dtype == torch.int16 else 1.0


def row_numbers(applied: Flags) -> Tensor | None:
    """The rows that a step applies to, (R,) int64, for `apply_to_rows`; None if it applies to all."""
    return None if applied.all() else torch.from_numpy(np.flatnonzero(applied))


def apply_to_rows(batch: Tensor, rows: Tensor | None, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Replaces these rows (R,) of (B, ...), or all rows, by `function` of them."""
    if rows is None:
        return function(batch)
    return batch.index_copy(0, rows, function(batch.index_select(0, rows)))
