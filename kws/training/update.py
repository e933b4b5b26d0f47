"""What becomes of the loss of a step's slots: backward passes, clipping, the learning rate, the optimizer's step.

Whole          every rank has all gradients and the optimizer's whole state
Partitioned    DeepSpeed's ZeRO: a rank has those of its part of the parameters, and reduces in its own way
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kws.config import TrainConfig
from kws.distributed import deepspeed_zero
from kws.distributed.ranks import Ranks
from kws.run.checkpoint import Checkpoint
from kws.training.optim import set_lr, settings_kept
from kws.training.reduction import Exact, Fast, InTurn, Reduction


class Update(Protocol):
    """`backward` in every slot, `step` once."""

    in_parts: bool
    """Whether every rank has a part of the optimizer's state, which it alone can save."""

    def backward(self, loss: Tensor) -> None:
        """Adds the loss's gradients to those of the step."""

    def step(self, lr: float, share: float) -> None:
        """Moves the weights; `share` makes the mean over the planned clips the mean over those there were."""

    def state_dict(self) -> dict[str, Any] | None:
        """The optimizer's state; None where it is in parts."""

    def save(self, folder: Path) -> None:
        """Where it is in parts: by all ranks together, to a new folder."""

    def load(self, checkpoint: Checkpoint) -> None:
        """By all ranks together."""


class Whole:
    """The optimizer as torch has it, with a gradient scaler for fp16."""

    in_parts = False

    def __init__(
        self, settings: TrainConfig, runtime: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        self._network, self._optimizer, self._settings = network, optimizer, settings
        self._scaler = torch.amp.GradScaler(runtime.device.type, enabled=settings.precision == "fp16")

    def backward(self, loss: Tensor) -> None:
        """Into .grad."""
        torch.autograd.backward(self._scaler.scale(loss))

    def step(self, lr: float, share: float) -> None:
        """Scales back, clips, steps, forgets the gradients."""
        self._scaler.unscale_(self._optimizer)
        if share != 1.0:
            torch._foreach_mul_([p.grad for p in self._network.parameters() if p.grad is not None], share)
        if self._settings.clip_grad_norm:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._settings.clip_grad_norm)
        set_lr(self._optimizer, lr)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=False)

    def state_dict(self) -> dict[str, Any] | None:
        """Optimizer and gradient scaler, the same on every rank."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def save(self, folder: Path) -> None:
        raise AssertionError("state_dict has it")

    def load(self, checkpoint: Checkpoint) -> None:
        """From `state_dict`."""
        state = checkpoint.optimizer()
        with settings_kept(self._optimizer):
            self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


class Partitioned(InTurn):
    """Reduction and Update at once, as DeepSpeed does both."""

    settles, in_parts = False, True

    def __init__(
        self, settings: TrainConfig, runtime: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        super().__init__(runtime)
        self._settings, self._optimizer = settings, optimizer
        self.model = self._engine = deepspeed_zero.engine(runtime.accelerator, network, optimizer)

    def waits(self, last: bool) -> bool:
        """Stage 1 reduces after a rank's last slot, stage 2 after each."""
        return last or self._settings.zero == 2

    def slot(self, last: bool) -> AbstractContextManager[Any]:
        """Tells DeepSpeed whether the step ends there."""
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Into the ranks' parts."""
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float, share: float) -> None:
        """Clips by the norm over all parts, steps each, and gathers the weights."""
        assert share == 1.0, "data.on_bad=skip is refused with train.zero"
        set_lr(self._optimizer, lr)
        self._engine.step()

    def state_dict(self) -> dict[str, Any] | None:
        """No rank has it all."""
        return None

    def save(self, folder: Path) -> None:
        """DeepSpeed's own files, of as many ranks as there are now."""
        self._runtime.on_main(lambda: deepspeed_zero.remove(folder))
        with self._runtime.alone():
            deepspeed_zero.save(self._engine, folder)

    def load(self, checkpoint: Checkpoint) -> None:
        """Each its own part; of a run on another number of ranks, what they joined."""
        with settings_kept(self._optimizer):
            if deepspeed_zero.ranks_of(checkpoint.parts) == self._runtime.world_size:
                deepspeed_zero.load(self._engine, checkpoint.parts)
            else:
                self._load_joined(checkpoint)

    def _load_joined(self, checkpoint: Checkpoint) -> None:
        scratch = checkpoint.path.with_name(f".{checkpoint.name}-joined.partial")
        joined = self._runtime.on_main(lambda: deepspeed_zero.join(checkpoint.parts, scratch))
        deepspeed_zero.load(self._engine, joined)
        self._runtime.barrier()
        self._runtime.on_main(lambda: deepspeed_zero.remove(scratch))


def of(
    settings: TrainConfig, runtime: Ranks, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Reduction, Update]:
    """By `train.zero` and `train.reduction`."""
    if settings.zero:
        both = Partitioned(settings, runtime, network, optimizer)
        return both, both
    whole = Whole(settings, runtime, network, optimizer)
    return Exact(runtime, network) if settings.reduction == "exact" else Fast(runtime, network), whole
