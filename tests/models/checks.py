"""Checks that the tests of several families share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn


def assert_trains(model: nn.Module, shape: tuple[int, int, int], classes: int, clips: int = 2) -> None:
    """Logits (clips, classes) for features of `shape`, and a gradient, finite and not zero, for every parameter."""
    logits = model.train()(torch.randn(clips, *shape))
    assert logits.shape == (clips, classes)
    F.cross_entropy(logits, torch.arange(clips) % classes).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.abs().sum() > 0, key


def output_channels(stage: nn.Sequential, x: torch.Tensor) -> list[int]:
    """Number of channels after each module of `stage`."""
    found = []
    for module in stage:
        x = module(x)
        found.append(x.shape[1])
    return found


def slow(*values: object) -> list[object]:
    """Test parameters that only the full run uses; a tuple stands for several arguments."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values
    ]
