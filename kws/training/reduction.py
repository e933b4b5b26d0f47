"""How what the slots of a step leave (gradients, and figures such as losses) becomes the step's.

    fast    slots one after the other into .grad; DDP's all-reduce after a rank's last one
    exact   slot 0 + slot 1, 2 + 3, ... then pairs of those, inside a process and across processes: one fixed binary
            tree over the M slots, so that 1, 2, 4, ... processes come to the same bits

Floating-point addition is commutative but not associative: only the tree's shape matters, and in `exact` it is that of
the slots, not of the processes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kws.distributed.process_group import wrap
from kws.distributed.ranks import Ranks


class Reduction(Protocol):
    """One step at a time: `begin`, then for each slot of this rank `slot` around its work and `add`, then `finish`."""

    model: nn.Module
    """What to call forward on."""
    loss_scale: float
    """What a slot's share of the mean loss is multiplied by before its backward pass."""
    settles: bool
    """Whether the order of addition hangs on how many backward passes there were since the start."""

    def waits(self, last: bool) -> bool:
        """Whether a slot must run backward even if it has no clips, because others wait for it."""

    def begin(self) -> None:
        """Forgets the step before."""

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a slot; `last`: of this rank's in the step."""

    def add(self, figures: Tensor) -> None:
        """What the slot left beside its gradients, float64 (X,), to be summed over the slots."""

    def finish(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The figures' sum over all slots, and of `own` (Y,) float64 over the ranks. Gradients are in place then."""


class InTurn:
    """Figures slot after slot, then over the ranks: the order of addition hangs on the number of processes."""

    def __init__(self, runtime: Ranks) -> None:
        self._runtime = runtime
        self.loss_scale = float(runtime.world_size)  # of gradients, the mean over the ranks is taken

    def begin(self) -> None:
        """Forgets the step before."""
        self._figures: Tensor | None = None

    def add(self, figures: Tensor) -> None:
        """One after the other."""
        self._figures = figures if self._figures is None else self._figures + figures

    def finish(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """One all-reduce for both."""
        assert self._figures is not None, "a rank has a slot at least"
        totals = self._runtime.sum(torch.cat([self._figures, own]))
        return totals[: len(self._figures)], totals[len(self._figures) :]


class Fast(InTurn):
    """DDP."""

    def __init__(self, runtime: Ranks, network: nn.Module) -> None:
        super().__init__(runtime)
        self.model = wrap(runtime, network)
        self.settles = runtime.world_size > 1

    def waits(self, last: bool) -> bool:
        """For the last, in whose backward pass DDP reduces."""
        return last and self._runtime.world_size > 1

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """DDP reduces in the backward pass of a rank's last slot only."""
        return nullcontext() if last else self._runtime.accelerator.no_sync(self.model)


class Exact:
    """The fixed tree. Every gradient lives in one flat buffer, so that a level of the tree is one addition; a process
    with S slots keeps up to log2(S) + 1 such buffers."""

    loss_scale, settles = 1.0, False

    def __init__(self, runtime: Ranks, network: nn.Module) -> None:
        self._runtime, self.model = runtime, network
        parameters = [p for p in network.parameters() if p.requires_grad]
        self._gradients = torch.zeros(sum(p.numel() for p in parameters), device=runtime.device)
        at = 0
        for p in parameters:
            p.grad = self._gradients[at : at + p.numel()].view_as(p)
            at += p.numel()

    def waits(self, last: bool) -> bool:
        """For none: ranks meet after their slots."""
        return False

    def begin(self) -> None:
        """Forgets the step before."""
        self._trees = _Tree(), _Tree()
        self._gradients.zero_()

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """Nothing: no process waits for another in a slot."""
        return nullcontext()

    def add(self, figures: Tensor) -> None:
        """Takes the slot's gradients out of the buffer too."""
        gradients, others = self._trees
        gradients.add(self._gradients.clone())
        others.add(figures)
        self._gradients.zero_()

    def finish(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """The tree's upper levels: rank by rank in pairs, pairs of pairs, ..."""
        gradients, others = (tree.root() for tree in self._trees)
        self._gradients.copy_(self._across(gradients))
        totals = self._across(torch.cat([others, own]))
        return totals[: len(others)], totals[len(others) :]

    def _across(self, values: Tensor) -> Tensor:
        distance = 1
        while distance < self._runtime.world_size:
            values = values + self._of_partner(values, self._runtime.rank ^ distance)
            distance *= 2
        return values

    def _of_partner(self, values: Tensor, partner: int) -> Tensor:
        theirs = torch.empty_like(values)
        exchange = [dist.P2POp(dist.isend, values, partner), dist.P2POp(dist.irecv, theirs, partner)]
        for request in dist.batch_isend_irecv(exchange):
            request.wait()
        return theirs


class _Tree:
    """Adds 2^k values in pairs, pairs of pairs, ..., holding one partial sum a level."""

    def __init__(self) -> None:
        self._partial: list[Tensor | None] = []

    def add(self, values: Tensor) -> None:
        """The next leaf; `values` are kept."""
        for level, partial in enumerate(self._partial):
            if partial is None:
                self._partial[level] = values
                return
            values, self._partial[level] = partial + values, None
        self._partial.append(values)

    def root(self) -> Tensor:
        """The sum, once 2^k leaves are in."""
        *lower, top = self._partial
        assert top is not None, "some leaf"
        assert not any(partial is not None for partial in lower), "as many leaves as a power of two"
        return top
