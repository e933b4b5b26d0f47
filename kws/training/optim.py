"""Optimizer, parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kws.config import TrainConfig


def build_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW. Weight decay spares norms and biases (everything of one dimension) by default."""
    decayed = [p for p in model.parameters() if p.requires_grad and (p.ndim > 1 or settings.decay_all)]
    others = [p for p in model.parameters() if p.requires_grad and not (p.ndim > 1 or settings.decay_all)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    # A few kernels for all parameters, and no wait for a GradScaler. Not on a CPU, where it would change the bits; not
    # under ZeRO, where DeepSpeed replaces the parameters by a few flat tensors.
    fused = True if not settings.zero and _device_type(model) == "cuda" else None
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    momentum = settings.momentum
    sgd = torch.optim.SGD(
        groups, lr=settings.lr, momentum=momentum, nesterov=settings.nesterov and momentum > 0, fused=fused
    )
    if fused and momentum:
        # Without these, the fused step would leave the momentum uninitialised where a GradScaler makes it skip the
        # first update (torch 2.13, _fused_sgd). From zeros the first step is the same.
        for p in decayed + others:
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p, requires_grad=False)
    return sgd


def _device_type(model: nn.Module) -> str:
    return next((p.device.type for p in model.parameters()), "cpu")


def lr_at(step: int, steps_per_epoch: int, settings: TrainConfig, scale: float = 1.0) -> float:
    """Learning rate of update `step` (from 0): a linear rise over warmup_epochs, then the schedule. `onecycle` has no
    warm-up, and `step` counts its periods from step 0 on.

    `scale`: product of the plateau schedule's reductions so far; 1 under other schedules.
    """
    total = settings.epochs * steps_per_epoch
    if settings.schedule == "onecycle":
        return settings.lr * _one_cycle(step, total)
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return scale * settings.lr * (step + 1) / warmup
    if settings.schedule == "step":
        return settings.lr * settings.factor ** (step // (settings.step_epochs * steps_per_epoch))
    if settings.schedule == "cosine":
        return settings.lr * _half_cosine((step - warmup) / max(1, total - warmup))
    return settings.lr * scale


def _half_cosine(done: float) -> float:
    """Half a cosine wave: 1 at done = 0, 0 at done = 1."""
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, done))))


def _rise(step: int, total: int) -> float:
    """Position in the cycle: 0 to 1 over the first 30 % of the run, 1 to 2 over the rest."""
    top = max(1.0, 0.3 * total - 1.0)
    return step / top if step < top else 1.0 + (step - top) / max(1.0, total - 1 - top)


def _one_cycle(step: int, total: int) -> float:
    """The 1cycle schedule as a fraction of the highest learning rate, with cosine segments.

    Source: Smith and Topin, "Super-convergence", arXiv 1708.07120.
    """
    place, first, last = _rise(step, total), 1.0 / 25.0, 1e-4 / 25.0
    if place <= 1.0:
        return first + (1.0 - first) * (1.0 - _half_cosine(place))
    return last + (1.0 - last) * _half_cosine(place - 1.0)


@dataclasses.dataclass
class Plateau:
    """State of the plateau schedule: lowest validation loss, evaluations since then, and the learning-rate factor."""

    lowest: float = math.inf
    since: int = 0
    scale: float = 1.0

    def record_loss(self, loss: float, settings: TrainConfig) -> None:
        """Takes the loss of an evaluation. Only a loss that is lower by a ten-thousandth or more is an improvement, as
        in torch's ReduceLROnPlateau."""
        if loss < self.lowest * (1.0 - 1e-4):
            self.lowest, self.since = loss, 0
            return
        self.since += 1
        if self.since > settings.patience:
            self.scale, self.since = self.scale * settings.factor, 0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@contextmanager
def keep_settings(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Around loading the optimizer's state: weight decay, momentum and the like keep the values of the settings, which
    may have been changed with train.allow_change since the state was saved."""
    kept = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    yield
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values)


@torch.no_grad()
def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads a state dict that may have been saved on another kind of device; settings stay as in `keep_settings`."""
    # torch moves AdamW's step counters to the device where the *saved* groups are fused.
    fused = optimizer.defaults["fused"]
    groups = [{**group, "fused": fused} for group in state["param_groups"]]
    with keep_settings(optimizer):
        optimizer.load_state_dict({**state, "param_groups": groups})
    if not fused:
        return
    for p, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == p.shape and value.stride() != p.stride():  # fused kernels want one layout
                values[name] = torch.empty_like(p).copy_(value)
