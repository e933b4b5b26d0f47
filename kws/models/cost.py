"""Size and cost of a network: trainable parameters, and multiply-adds of a clip and of a second of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from kws.models.time_context import TimeNetwork

WINDOWS_PER_S = 10
"""How often a network that cannot stream is run on the last window: every 100 ms."""


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters. The running statistics of batch norm are not among them."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model: nn.Module, in_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one clip (in_channels, F, N), counted by hooks during a forward pass.

    Counted are convolutions, linear layers and attention, as in the papers; norms and activations are not. `model` may
    be on the meta device, which computes shapes only. A module that multiplies outside of convolutions and linear
    layers, such as attention, has a method `own_multiply_adds(x)` that returns the count for the input batch x.
    """
    zeros = torch.zeros(1, *in_shape, device=next(model.parameters()).device)
    return _multiply_adds_of(model, lambda: model(zeros))


def multiply_adds_per_second(model: nn.Module, in_shape: tuple[int, int, int], frames_per_s: float) -> float:
    """Multiply-adds for a second of continuous audio, of which a window has the shape (in_channels, F, N).

    Of a network that streams: of its new frames, and of a classification at each step of its stride. Of others: of
    `WINDOWS_PER_S` windows.
    """
    if not (isinstance(model, TimeNetwork) and model.streams):
        return WINDOWS_PER_S * multiply_adds(model, in_shape)
    network: TimeNetwork = model
    chunk = torch.zeros(1, *in_shape[:2], network.time_stride, device=next(model.parameters()).device)
    step = _multiply_adds_of(network, lambda: network.classify(network.stream(chunk)[0].mean(dim=2)))
    return step * frames_per_s / network.time_stride


def _multiply_adds_of(model: nn.Module, compute: Callable[[], object]) -> int:
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, _ConvNd):
            total += output.numel() * module.weight[0].numel()  # input channels of a group times kernel size
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif own := getattr(module, "own_multiply_adds", None):
            total += own(inputs[0])

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            compute()
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
