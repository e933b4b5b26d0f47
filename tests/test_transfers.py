"""Copies between host and device: nothing changes on the way, and on a CPU nothing is copied."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from kws import transfers
from kws.transfers import Download, to_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@dataclasses.dataclass(frozen=True)
class Inner:
    flags: Tensor
    name: str
    missing: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    numbers: Tensor
    parts: list[Inner]
    pair: tuple[Tensor, float]


def parameters() -> Outer:
    """Tensors of several types and shapes, in an order in which they would not be aligned."""
    parts = [Inner(torch.tensor([[True, False, True]]), "a"), Inner(torch.zeros(0, dtype=torch.bool), "b")]
    return Outer(torch.arange(5, dtype=torch.int16), parts, (torch.arange(6.0).double().view(2, 3), 0.5))


def test_on_a_cpu_it_is_the_same_object() -> None:
    host = parameters()
    assert to_device(host, CPU) is host


def test_to_a_device_all_values_types_and_shapes_arrive_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Tensor] = []

    def upload(host: Tensor, device: torch.device) -> Tensor:
        copies.append(host)
        return host.clone()

    monkeypatch.setattr(transfers, "upload", upload)
    host, here = parameters(), to_device(parameters(), CUDA)
    assert len(copies) == 1
    assert [part.name for part in here.parts] == ["a", "b"]
    assert here.parts[0].missing is None
    assert here.pair[1] == 0.5
    for mine, theirs in (
        (here.numbers, host.numbers), (here.pair[0], host.pair[0]), (here.parts[0].flags, host.parts[0].flags),
        (here.parts[1].flags, host.parts[1].flags),
    ):  # fmt: skip
        assert torch.equal(mine, theirs)
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)


def test_without_tensors_nothing_is_copied_to_a_device() -> None:
    assert to_device((1, None, ["text"]), CUDA) == (1, None, ["text"])


def test_a_download_from_a_cpu_is_there_at_once() -> None:
    assert Download(torch.arange(3)).wait().tolist() == [0, 1, 2]
