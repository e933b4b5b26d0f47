"""Optimizer, parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from kws.config import TrainConfig


def build_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW. Weight decay spares norms and biases (everything of one dimension) unless asked."""
    decayed = [p for p in model.parameters() if p.requires_grad and (p.ndim > 1 or settings.decay_all)]
    others = [p for p in model.parameters() if p.requires_grad and not (p.ndim > 1 or settings.decay_all)]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        nesterov = settings.nesterov and momentum > 0
        return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr)


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
