"""Size and cost of a network: trainable parameters, and multiply-adds per clip."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


def count_parameters(model: nn.Module) -> int:
    """Number of trainable parameters. The running statistics of batch norm are not among them."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def multiply_adds(model: nn.Module, in_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one clip (in_channels, F, N), counted by hooks during a forward pass.

    Counted are convolutions, linear layers and attention, as in the papers; norms and activations are not. `model` may
    be on the meta device, which computes shapes only. A module that multiplies outside of convolutions and linear
    layers, such as attention, has a method `own_multiply_adds(x)` that returns the count for the input batch x.
    """
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
    device = next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *in_shape, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
