"""What makes a slot a unit of its own: its seed, its weight in the step, its batch-norm statistics.

Every slot of a step starts from the same running statistics; after the step they are the average over the slots,
weighted by clips. So no rank is special, and one process with eight slots computes what eight processes compute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kws import counter_rng


def seed_slot(seed: int, step: int, slot: int) -> None:
    """Dropout and the like draw from (seed, step, slot), whatever ran before."""
    torch.manual_seed(counter_rng.digest("slot", seed, step, slot))


class RunningStatistics:
    """The running mean and variance of all batch norms of a model, as slots of one step see them.

    The norms' buffers become views of one tensor, so that a slot costs some operations and not some for each norm.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._live = self._counters = torch.zeros(0)

    def begin_step(self) -> None:
        """Remembers what every slot of the step starts from."""
        if not self._is_flat():
            self._flatten()
        self._start, self._counted = self._live.clone(), self._counters.clone()

    def begin_slot(self, clips: int) -> None:
        """Back to the step's start. A single clip has no variance: such a slot uses the running statistics."""
        self._live.copy_(self._start)
        for norm in self._norms:
            if norm.training != (clips > 1):
                norm.train(clips > 1)

    def end_slot(self, clips: int) -> Tensor:
        """What the slot left, weighted by its clips: one flat float64 vector, to be summed over the step's slots.

        Of a slot without clips, zeros: nothing need have run.
        """
        return self._live.double() * clips

    def end_step(self, totals: Tensor, clips: int) -> None:
        """Sets the average over all clips of the step; one step is one batch for `num_batches_tracked`.

        A step without clips leaves things as they were.
        """
        if clips == 0:
            self.begin_slot(clips)
            return
        self._live.copy_(totals / clips)
        self._counters.copy_(self._counted + 1)

    def _is_flat(self) -> bool:
        """Moving a model between devices (accelerate does, "cpu" to "cpu:0") replaces its buffers."""
        own = self._live.untyped_storage().data_ptr()
        return bool(self._norms) and all(
            norm.running_mean is None or norm.running_mean.untyped_storage().data_ptr() == own for norm in self._norms
        )

    def _flatten(self) -> None:
        device = next(self._model.parameters()).device
        self._live = _as_one(self._norms, ("running_mean", "running_var"), torch.float32, device)
        self._counters = _as_one(self._norms, ("num_batches_tracked",), torch.int64, device)


def _as_one(norms: Sequence[nn.Module], names: Sequence[str], kind: torch.dtype, device: torch.device) -> Tensor:
    """Makes the named buffers of modules views of one new tensor, which is returned."""
    there = [(norm, name) for norm in norms for name in names if getattr(norm, name) is not None]
    values = [getattr(norm, name) for norm, name in there]
    flat = torch.cat([torch.zeros(0, dtype=kind, device=device), *[value.flatten() for value in values]])
    at = 0
    for (norm, name), value in zip(there, values, strict=True):
        setattr(norm, name, flat[at : at + value.numel()].view(value.shape))
        at += value.numel()
    return flat
