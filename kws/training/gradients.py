"""Gradient synchronisation and the optimizer's step: from the losses of a step's slots to updated weights.

    DdpGradients       train.reduction = fast: slot after slot into .grad, DDP's all-reduce after a rank's last slot
    TreeGradients      train.reduction = exact: slot 0 + slot 1, 2 + 3, ... then pairs of those, inside a rank and then
                       across ranks: one fixed binary tree over the M slots, the same bits on 1, 2, 4, ... ranks
    ShardedOptimizer   train.zero: DeepSpeed's ZeRO reduces in its own way, and each rank holds a shard of the
                       optimizer's state; the other two keep it whole on every rank (ReplicatedOptimizer)

Floating-point addition is commutative but not associative: the result depends on how terms are bracketed, not on their
order within a pair. In `exact` the brackets are given by the slots and not by the ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kws.config import TrainConfig
from kws.distributed import deepspeed_zero
from kws.distributed.process_group import wrap_ddp
from kws.distributed.ranks import Ranks
from kws.run.checkpoint import Checkpoint
from kws.training.optim import keep_settings, load_state, set_lr


class GradientSync(Protocol):
    """One step: `begin_step`; for each slot of this rank `slot` around its forward and backward pass, then
    `end_slot`; `reduce` once; `update` once. All ranks call these together."""

    model: nn.Module
    """The network as forward must call it: wrapped in DDP or DeepSpeed where that is in use."""
    loss_scale: float
    """Factor for a slot's loss before its backward pass, to undo a mean over ranks."""
    sharded: bool
    """Whether each rank holds only a shard of the optimizer's state, which it alone can save."""
    needs_bucket_warmup: bool
    """Whether two backward passes must run before the first step of an attempt, because DDP rebuilds its buckets after
    its first one."""

    def must_run_backward(self, last: bool) -> bool:
        """Whether a slot without clips must run backward all the same, because other ranks wait for it."""

    def begin_step(self) -> None:
        """Drops what the step before left."""

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """Context for forward and backward of a slot; `last`: the rank's last slot of the step."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss` to those of the step."""

    def end_slot(self, sums: Tensor) -> None:
        """Ends a slot: takes its sums, float64 (X,), to be added over the step's slots."""

    def reduce(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the sums over all slots, (X,), and `votes` (V,) float64 added over the ranks. After it the gradients
        are complete."""

    def update(self, lr: float, gradient_factor: float, frozen: Sequence[nn.Parameter] = ()) -> None:
        """Multiplies the gradients by `gradient_factor`, clips them, makes the optimizer's step at `lr` and clears the
        gradients. Parameters that are `frozen` stay as they are, and so does their state in the optimizer."""

    def state_dict(self) -> dict[str, Any] | None:
        """The optimizer's state; None where it is sharded."""

    def save_shards(self, folder: Path) -> None:
        """Where the state is sharded: every rank writes its shard into `folder`, which is emptied first."""

    def load(self, checkpoint: Checkpoint) -> None:
        """Loads the optimizer's state, on all ranks together."""


class ReplicatedOptimizer:
    """A torch optimizer whose state is the same on every rank, with a gradient scaler for fp16."""

    sharded = False

    def __init__(
        self, settings: TrainConfig, ranks: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self._network, self._optimizer, self._settings = network, optimizer, settings
        self._scaler = torch.amp.GradScaler(ranks.device.type, enabled=settings.precision == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss` to .grad."""
        torch.autograd.backward(self._scaler.scale(loss))

    def update(self, lr: float, gradient_factor: float, frozen: Sequence[nn.Parameter] = ()) -> None:
        """See GradientSync. Under fp16 a step whose gradients overflowed is left out and the loss scale halved, as
        GradScaler does."""
        with _without_gradients(frozen):
            self._scaler.unscale_(self._optimizer)
            if gradient_factor != 1.0:
                gradients = [p.grad for p in self._network.parameters() if p.grad is not None]
                torch._foreach_mul_(gradients, gradient_factor)
            if self._settings.clip_grad_norm:
                nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_grad_norm)
            set_lr(self._optimizer, lr)
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=False)

    def state_dict(self) -> dict[str, Any] | None:
        """State of optimizer and gradient scaler, the same on every rank."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def save_shards(self, folder: Path) -> None:
        """Never called: `state_dict` has everything."""
        raise AssertionError("the optimizer's state is not sharded")

    def load(self, checkpoint: Checkpoint) -> None:
        """Loads what `state_dict` returned; learning rate, weight decay and the like stay those of the settings."""
        state = checkpoint.optimizer()
        load_state(self._optimizer, state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


@contextmanager
def _without_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the with block these parameters have no gradients, so that an optimizer passes over them."""
    gradients = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    yield
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient


class _SumsInOrder:
    """Adds the slots' sums one after the other, then over the ranks: the order depends on the number of ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self.clear()

    def clear(self) -> None:
        self._sums: Tensor | None = None

    def add(self, sums: Tensor) -> None:
        self._sums = sums if self._sums is None else self._sums + sums

    def reduce(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        """One all-reduce for sums and votes together."""
        assert self._sums is not None, "a rank has at least one slot"
        totals = self._ranks.sum(torch.cat([self._sums, votes]))
        return totals[: len(self._sums)], totals[len(self._sums) :]


class DdpGradients(ReplicatedOptimizer):
    """train.reduction = fast: gradients accumulate slot after slot, DDP reduces them in the last backward pass."""

    def __init__(
        self, settings: TrainConfig, ranks: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        super().__init__(settings, ranks, network, optimizer)
        self._ranks, self._sums = ranks, _SumsInOrder(ranks)
        self.model = wrap_ddp(ranks, network)
        self.loss_scale = float(ranks.world_size)  # DDP takes the mean of the gradients over the ranks
        self.needs_bucket_warmup = ranks.world_size > 1

    def must_run_backward(self, last: bool) -> bool:
        """True for a rank's last slot, in whose backward pass DDP reduces."""
        return last and self._ranks.world_size > 1

    def begin_step(self) -> None:
        """Drops the sums of the step before; `update` cleared the gradients."""
        self._sums.clear()

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """Suspends DDP's reduction, except in the rank's last slot."""
        return nullcontext() if last else self._ranks.accelerator.no_sync(self.model)

    def end_slot(self, sums: Tensor) -> None:
        """Adds a slot's sums (X,) in order."""
        self._sums.add(sums)

    def reduce(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (X,) over all slots, votes (V,) over the ranks."""
        return self._sums.reduce(votes)


class TreeGradients(ReplicatedOptimizer):
    """train.reduction = exact: the fixed binary tree. All gradients lie in one flat buffer, so that a level of the tree
    is one addition; a rank with S slots keeps up to log2(S) + 1 such buffers."""

    loss_scale, needs_bucket_warmup = 1.0, False

    def __init__(
        self, settings: TrainConfig, ranks: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        super().__init__(settings, ranks, network, optimizer)
        self._ranks, self.model = ranks, network
        parameters = [p for p in network.parameters() if p.requires_grad]
        self._gradients = torch.zeros(sum(p.numel() for p in parameters), device=ranks.device)
        at = 0
        for p in parameters:
            part = self._gradients[at : at + p.numel()]
            # On a GPU in the layout of the parameter (train.channels_last), which fused optimizers want.
            p.grad = part.as_strided(p.shape, p.stride()) if p.device.type == "cuda" else part.view_as(p)
            at += p.numel()

    def must_run_backward(self, last: bool) -> bool:
        """Never: ranks exchange gradients only after their slots."""
        return False

    def begin_step(self) -> None:
        """Starts new trees."""
        self._gradient_tree, self._sums_tree = BinaryTree(), BinaryTree()
        self._gradients.zero_()

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """No context needed: no rank waits for another inside a slot."""
        return nullcontext()

    def end_slot(self, sums: Tensor) -> None:
        """Moves the slot's gradients out of the buffer into the tree, and its sums (X,) into theirs."""
        self._gradient_tree.add(self._gradients.clone())
        self._sums_tree.add(sums)
        self._gradients.zero_()

    def reduce(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        """The upper levels of the tree: ranks add in pairs, pairs of pairs, ..."""
        sums = self._sums_tree.root()
        self._gradients.copy_(self._across_ranks(self._gradient_tree.root()))
        totals = self._across_ranks(torch.cat([sums, votes]))
        return totals[: len(sums)], totals[len(sums) :]

    def _across_ranks(self, values: Tensor) -> Tensor:
        distance = 1
        while distance < self._ranks.world_size:
            values = values + self._exchange(values, self._ranks.rank ^ distance)
            distance *= 2
        return values

    def _exchange(self, values: Tensor, partner: int) -> Tensor:
        received = torch.empty_like(values)
        exchange = [dist.P2POp(dist.isend, values, partner), dist.P2POp(dist.irecv, received, partner)]
        for request in dist.batch_isend_irecv(exchange):
            request.wait()
        return received


class BinaryTree:
    """Adds 2^k values in pairs, pairs of pairs, ..., and holds one partial sum a level."""

    def __init__(self) -> None:
        self._partial: list[Tensor | None] = []

    def add(self, values: Tensor) -> None:
        """Adds the next leaf, which is kept and must not change afterwards."""
        for level, partial in enumerate(self._partial):
            if partial is None:
                self._partial[level] = values
                return
            values, self._partial[level] = partial + values, None
        self._partial.append(values)

    def root(self) -> Tensor:
        """The sum of the leaves, whose number must be a power of two."""
        *lower, top = self._partial
        assert top is not None, "at least one leaf"
        assert not any(partial is not None for partial in lower), "the number of leaves is a power of two"
        return top


class ShardedOptimizer:
    """DeepSpeed's ZeRO: it reduces the gradients and steps the optimizer, each rank its own shard of the state."""

    sharded, needs_bucket_warmup = True, False

    def __init__(
        self, settings: TrainConfig, ranks: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self._settings, self._ranks, self._optimizer = settings, ranks, optimizer
        self._sums = _SumsInOrder(ranks)
        self.model = self._engine = deepspeed_zero.create_engine(ranks.accelerator, network, optimizer)
        self.loss_scale = float(ranks.world_size)  # DeepSpeed takes the mean of the gradients over the ranks

    def must_run_backward(self, last: bool) -> bool:
        """Stage 1 reduces after a rank's last slot, stage 2 after each slot."""
        return last or self._settings.zero == 2

    def begin_step(self) -> None:
        """Drops the sums of the step before."""
        self._sums.clear()

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """Informs DeepSpeed whether the step ends with this slot."""
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients to the ranks' shards."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def end_slot(self, sums: Tensor) -> None:
        """Adds a slot's sums (X,) in order."""
        self._sums.add(sums)

    def reduce(self, votes: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (X,) over all slots, votes (V,) over the ranks."""
        return self._sums.reduce(votes)

    def update(self, lr: float, gradient_factor: float, frozen: Sequence[nn.Parameter] = ()) -> None:
        """Clips by the norm over all shards, steps each shard, and gathers the weights."""
        assert gradient_factor == 1.0, "data.on_bad=skip is refused with train.zero"
        assert not frozen, "train.freeze_epochs is refused with train.zero"
        set_lr(self._optimizer, lr)
        self._engine.step()

    def state_dict(self) -> dict[str, Any] | None:
        """None: no rank has the whole state."""
        return None

    def save_shards(self, folder: Path) -> None:
        """Writes DeepSpeed's own files, one shard a rank."""
        self._ranks.on_main(lambda: deepspeed_zero.remove_folder(folder))
        with self._ranks.local_errors():
            deepspeed_zero.save_shards(self._engine, folder)

    def load(self, checkpoint: Checkpoint) -> None:
        """Each rank loads its shard; where another number of ranks wrote them, the shards are joined first."""
        with keep_settings(self._optimizer):
            if deepspeed_zero.num_saved_ranks(checkpoint.optimizer_shards) == self._ranks.world_size:
                deepspeed_zero.load_shards(self._engine, checkpoint.optimizer_shards)
            else:
                self._load_joined(checkpoint)

    def _load_joined(self, checkpoint: Checkpoint) -> None:
        scratch = checkpoint.path.with_name(f".{checkpoint.name}-joined.partial")
        joined = self._ranks.on_main(lambda: deepspeed_zero.merge_shards(checkpoint.optimizer_shards, scratch))
        deepspeed_zero.load_shards(self._engine, joined)
        self._ranks.barrier()
        self._ranks.on_main(lambda: deepspeed_zero.remove_folder(scratch))


def gradient_sync(
    settings: TrainConfig, ranks: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
) -> GradientSync:
    """The implementation that `train.zero` and `train.reduction` select."""
    if settings.zero:
        return ShardedOptimizer(settings, ranks, network, optimizer)
    kind = TreeGradients if settings.reduction == "exact" else DdpGradients
    return kind(settings, ranks, network, optimizer)
