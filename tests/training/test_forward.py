"""torch.compile in a step: one graph of fixed shapes for each slot size, and the watchdog's patience for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kws.config import TrainConfig
from kws.training import forward
from kws.training.forward import ForwardPass

CPU = torch.device("cpu")


class Patience:
    """Records the activities without a time limit."""

    def __init__(self) -> None:
        self.unlimited: list[str] = []

    def report_progress(self, activity: str) -> None:
        """Not recorded."""

    @contextlib.contextmanager
    def no_time_limit(self, activity: str) -> Iterator[None]:
        self.unlimited.append(activity)
        yield


class Network(nn.Module):
    """A module of our own: torch compiles no nn.Sequential that is called directly."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers(features)
        return logits


@pytest.mark.slow  # torch imports its compiler: seconds
def test_each_slot_size_is_compiled_once_with_fixed_shapes_and_without_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[list[Any]] = []

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(inputs)
        return graph.forward

    compile_module = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_module(self, backend=count, **options))
    torch.compiler.reset()
    settings, patience = TrainConfig(compile=True, global_batch=16, micro_batch=8), Patience()
    network = Network()
    forward.set_up(network.train(), settings)
    passes = ForwardPass(network, settings, CPU, patience)
    for clips in (8, 8, 5, 8, 4, 5):
        with passes.time_limit(clips):
            passes(torch.randn(clips, 1, 6, 6)).sum().backward()
    shapes = [[tuple(x.shape) for x in inputs if isinstance(x, Tensor)] for inputs in graphs]
    assert [next(shape[0] for shape in found if shape[1:] == (1, 6, 6)) for found in shapes] == [8, 5, 4]
    assert all(isinstance(size, int) for found in shapes for shape in found for size in shape)
    assert patience.unlimited == ["compiling"] * 3


def test_without_compile_every_slot_has_the_usual_time_limit() -> None:
    patience = Patience()
    with ForwardPass(nn.Identity(), TrainConfig(), CPU, patience).time_limit(8):
        assert patience.unlimited == []
