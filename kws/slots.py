"""What makes a slot a unit of its own: its seed, its weight in the step, its batch-norm statistics.

Every slot of a step starts from the same running statistics; after the step they are the average over the slots,
weighted by clips. So no rank is special, and one process with eight slots computes what eight processes compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kws import keyed


def seed_slot(seed: int, step: int, slot: int) -> None:
    """Dropout and the like draw from (seed, step, slot), whatever ran before."""
    torch.manual_seed(keyed.digest("slot", seed, step, slot))


class RunningStatistics:
    """The running mean and variance of all batch norms of a model, as slots of one step see them."""

    def __init__(self, model: nn.Module) -> None:
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._live: list[Tensor] = []
        self._start: list[Tensor] = []
        self._counted: list[Tensor] = []

    def begin_step(self) -> None:
        """Remembers what every slot of the step starts from."""
        # Looked up anew: moving a model between devices (accelerate does, "cpu" to "cpu:0") replaces its buffers.
        self._live = [t for m in self._norms for t in (m.running_mean, m.running_var) if t is not None]
        self._start = [t.clone() for t in self._live]
        self._counted = [t.clone() for t in self._counters()]

    def begin_slot(self, clips: int) -> None:
        """Back to the step's start. A single clip has no variance: such a slot uses the running statistics."""
        if self._live:
            torch._foreach_copy_(self._live, self._start)
        for norm in self._norms:
            norm.train(clips > 1)

    def end_slot(self, clips: int) -> Tensor:
        """What the slot left, weighted by its clips: one flat float64 vector, to be summed over the step's slots.

        Of a slot without clips, zeros: nothing need have run.
        """
        device = self._live[0].device if self._live else None
        parts = [value.detach().flatten().double() * clips for value in self._live]
        return torch.cat([torch.zeros(0, dtype=torch.float64, device=device), *parts])

    def end_step(self, totals: Tensor, clips: int) -> None:
        """Sets the average over all clips of the step; one step is one batch for `num_batches_tracked`.

        A step without clips leaves things as they were.
        """
        if clips == 0:
            self.begin_slot(clips)
            return
        at = 0
        for value in self._live:
            value.copy_((totals[at : at + value.numel()] / clips).view_as(value))
            at += value.numel()
        for counter, before in zip(self._counters(), self._counted, strict=True):
            counter.copy_(before + 1)

    def _counters(self) -> list[Tensor]:
        return [m.num_batches_tracked for m in self._norms if m.num_batches_tracked is not None]
