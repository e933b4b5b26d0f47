"""What a network costs: its multiply-adds, counted by letting it run on shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


def multiply_adds(model: nn.Module, in_shape: tuple[int, int, int]) -> int:
    """Of one clip (planes, F, N) through convolutions, linear layers and attention; norms and activations are not
    counted, as in the papers. `model` may lie on the meta device, which computes nothing.

    A module that multiplies outside of convolutions and linear layers, as attention does, has a method
    `own_multiply_adds(x)`: how often, for the input x over its whole batch.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, _ConvNd):
            total += output.numel() * module.weight[0].numel()  # its group's channels times the kernel
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
