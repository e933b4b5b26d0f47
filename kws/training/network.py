"""The network of a run by its settings: on the device, in the memory layout and with the gradient checkpointing set."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch
from torch import nn

from kws.config import Config
from kws.errors import UsageError
from kws.models import recompute, registry


def build_network(config: Config, num_classes: int, in_shape: tuple[int, int, int], device: torch.device) -> nn.Module:
    """For inputs (1, F, N) and `num_classes` classes, with the same initial weights on every rank.

    Raises UsageError where the settings do not fit the network or the input.
    """
    torch.manual_seed(config.train.seed)
    name, recomputes = config.model.name, config.train.gradient_checkpointing
    try:
        network = registry.build_model(name, num_classes, in_shape).to(device)
    except UsageError as error:
        raise UsageError(f"model.name: {error}") from error
    if not recompute.set_gradient_checkpointing(network, recomputes) and recomputes:
        raise UsageError(f"train.gradient_checkpointing: {name} does not support it; leave the setting out")
    if config.train.channels_last:
        # Before the optimizer is made: fused kernels require that its state has the layout of the parameters.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.train.compile:
        _refuse_without_compiler(device)
    return network


def _refuse_without_compiler(device: torch.device) -> None:
    """Raises UsageError where torch.compile would fail at the first step for lack of what it compiles with."""
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UsageError(
            f"train.compile: no C++ compiler {compiler} here; install one, set CXX to its path, or use "
            "--set train.compile=false"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("train.compile: the package triton is not installed here; use --set train.compile=false")
