"""The network's forward pass as the settings want it: memory layout, precision, torch.compile."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from kws.config import TrainConfig

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Progress(Protocol):
    """What a step reports to the watchdog (kws/distributed/watchdog.py)."""

    def report_progress(self, activity: str) -> None:
        """The rank made progress; `activity` is what it does next."""

    def no_time_limit(self, activity: str) -> AbstractContextManager[None]:
        """Around an activity that may take any time."""


class NoWatchdog:
    """Progress reports that are ignored."""

    def report_progress(self, activity: str) -> None:
        """Does nothing."""

    def no_time_limit(self, activity: str) -> AbstractContextManager[None]:
        """Does nothing."""
        return nullcontext()


def set_up(network: nn.Module, settings: TrainConfig) -> None:
    """Has the network compiled where it is first called (train.compile); before it is wrapped."""
    if settings.compile:
        # A slot size has a graph of its own. With dynamic shapes torch would compile a slower one from the second size
        # on, which the first short step of an epoch would bring, for all sizes.
        network.compile(dynamic=False)


class ForwardPass:
    """Calls `model`, which is the network or a wrapper around it."""

    def __init__(self, model: nn.Module, settings: TrainConfig, device: torch.device, progress: Progress) -> None:
        self._model, self._device, self._progress = model, device, progress
        self._compiles, self._channels_last = settings.compile, settings.channels_last
        self._autocast = _AUTOCAST[settings.precision]
        self._compiled: set[int] = set()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Features (B, 1, F, N) -> logits (B, C), float32."""
        if self._channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._autocast, enabled=self._autocast is not None):
            logits: Tensor = self._model(inputs)
        return logits.float()

    def time_limit(self, clips: int) -> AbstractContextManager[None]:
        """Around forward and backward pass of so many clips: none where these have to be compiled first."""
        if not self._compiles or clips in self._compiled:
            return nullcontext()
        self._compiled.add(clips)
        return self._progress.no_time_limit("compiling")
