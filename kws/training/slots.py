"""What makes the slots of a step independent of ranks: a seed of their own, and batch-norm statistics of their own.

Every slot of a step starts from the same running statistics; after the step they become the average over the slots,
weighted by clips. So one process that runs eight slots computes the same as eight processes that run one each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kws import counter_rng


def seed_slot(seed: int, step: int, slot: int) -> None:
    """Seeds torch's generators from (seed, step, slot), so that dropout does not depend on what ran before."""
    value = counter_rng.digest("slot", seed, step, slot)
    # Not torch.manual_seed: where no GPU is in use, it formats a stack trace each time (0.2 to 0.4 ms) for later.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(value)


ALIGNMENT = 32
"""A buffer starts in the flat tensor at a multiple of so many elements. Without that, a network with 19 channels ended
with "misaligned address" on an H200 (cuDNN 9.19)."""


class RunningStatistics:
    """The running mean and variance of all batch norms of a model, kept apart for each slot of a step.

    The norms' buffers become views of one flat tensor of X numbers, zeros between them, so that a slot costs a few
    operations and not a few for each norm.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._live = self._counters = torch.zeros(0)
        self._views: list[tuple[_BatchNorm, Tensor | None]] = []

    def begin_step(self) -> None:
        """Stores the statistics from which every slot of the step starts."""
        if not self._is_flat():
            self._flatten()
        self._start, self._counted = self._live.clone(), self._counters.clone()

    def begin_slot(self, clips: int) -> None:
        """Resets the statistics to the start of the step. A single clip has no variance: a slot of one clip uses the
        running statistics, as in evaluation."""
        self._live.copy_(self._start)
        for norm in self._norms:
            if norm.training != (clips > 1):
                norm.train(clips > 1)

    def end_slot(self, clips: int) -> Tensor:
        """The statistics after the slot times its number of clips, float64 (X,), to be summed over the step's slots.

        Zeros for a slot without clips, which may not have run at all.
        """
        return self._live.double() * clips

    def end_step(self, totals: Tensor, clips: Tensor) -> None:
        """Sets the average over all `clips` () of the step from the summed statistics, `totals` (X,).
        `num_batches_tracked` counts a step as one batch. A step without clips changes nothing.
        """
        has_clips = clips > 0
        self._live.copy_(torch.where(has_clips, totals / clips, self._start.double()))
        self._counters.copy_(self._counted + has_clips)

    def undo_step(self) -> None:
        """Back to where the step began."""
        self._live.copy_(self._start)
        self._counters.copy_(self._counted)

    def _is_flat(self) -> bool:
        """Whether the buffers are still views of the flat tensor: moving a model between devices (accelerate does so,
        from "cpu" to "cpu:0") replaces them."""
        return bool(self._views) and all(norm.running_mean is view for norm, view in self._views)

    def _flatten(self) -> None:
        device = next(self._model.parameters()).device
        self._live = _as_one(self._norms, ("running_mean", "running_var"), torch.float32, device)
        self._counters = _as_one(self._norms, ("num_batches_tracked",), torch.int64, device)
        self._views = [(norm, norm.running_mean) for norm in self._norms]


def _as_one(norms: Sequence[nn.Module], names: Sequence[str], kind: torch.dtype, device: torch.device) -> Tensor:
    """Makes the named buffers of the modules views of one new flat tensor, and returns that."""
    existing = [(norm, name) for norm in norms for name in names if getattr(norm, name) is not None]
    values = [getattr(norm, name) for norm, name in existing]
    starts = [0, *itertools.accumulate(-(-value.numel() // ALIGNMENT) * ALIGNMENT for value in values)]
    flat = torch.zeros(starts[-1], dtype=kind, device=device)
    for (norm, name), value, start in zip(existing, values, starts, strict=False):
        view = flat[start : start + value.numel()].view(value.shape)
        setattr(norm, name, view.copy_(value))
    return flat
