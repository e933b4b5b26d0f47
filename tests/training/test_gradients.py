"""Gradient synchronisation and update: sums over slots, the mean over clips, clipping, fp16 overflow, state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kws.config import TrainConfig
from kws.distributed.ranks import Ranks
from kws.run.checkpoint import Checkpoints
from kws.training.gradients import BinaryTree, DdpGradients, GradientSync, TreeGradients, gradient_sync
from kws.training.optim import build_optimizer
from tests.training.one_process import OneProcess

CPU = torch.device("cpu")
KINDS = ["fast", "exact"]


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def sync_of(network: nn.Module, reduction: Any, **settings: Any) -> GradientSync:
    train = TrainConfig(reduction=reduction, optimizer="sgd", global_batch=8, micro_batch=2, **settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    return gradient_sync(train, Ranks(0, 1, CPU, 1, OneProcess()), network, optimizer)


def run_slots(sync: GradientSync, slots: Sequence[torch.Tensor], planned_clips: int) -> tuple[list[float], list[float]]:
    """One step of a quadratic loss, without its update: returns summed loss and clips, and the votes."""
    sync.begin_step()
    for number, clips in enumerate(slots):
        with sync.slot(number == len(slots) - 1):
            loss = sync.model(clips).square().sum()
            sync.backward(loss * (sync.loss_scale / planned_clips))
        sync.end_slot(torch.tensor([loss.item(), len(clips)], dtype=torch.float64))
    totals, votes = sync.reduce(torch.tensor([1.0, 0.0], dtype=torch.float64))
    return totals.tolist(), votes.tolist()


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def mean_gradients(clips: torch.Tensor) -> list[torch.Tensor]:
    """Of the mean loss over all clips, in one batch."""
    network = small_network()
    (network(clips).square().sum() / len(clips)).backward()
    return gradients(network)


def test_settings_choose_the_implementation() -> None:
    assert isinstance(sync_of(small_network(), "fast"), DdpGradients)
    assert isinstance(sync_of(small_network(), "exact"), TreeGradients)
    assert not sync_of(small_network(), "exact").sharded


@pytest.mark.parametrize("reduction", KINDS)
def test_slots_add_up_to_the_mean_over_the_clips_of_the_step(reduction: str) -> None:
    clips = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    network = small_network()
    sync = sync_of(network, reduction)
    for _ in range(2):  # a second step starts from zero
        (loss, count), votes = run_slots(sync, clips.split(2), planned_clips=8)
        for mine, wanted in zip(gradients(network), mean_gradients(clips), strict=True):
            torch.testing.assert_close(mine, wanted)
        sync.update(lr=0.0, gradient_factor=1.0)
    assert loss == pytest.approx(small_network()(clips).square().sum().item(), rel=1e-6)
    assert (count, votes) == (8.0, [1.0, 0.0])


@pytest.mark.parametrize("reduction", KINDS)
def test_with_skipped_clips_the_gradient_is_the_mean_over_those_that_were_there(reduction: str) -> None:
    # data.on_bad=skip: eight clips planned, five readable, one slot empty.
    clips = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    network = small_network()
    before = [p.detach().clone() for p in network.parameters()]
    sync = sync_of(network, reduction)
    sync.begin_step()
    for number, part in enumerate((clips[:2], clips[2:3], clips[:0], clips[3:])):
        with sync.slot(number == 3):
            if len(part):
                sync.backward(sync.model(part).square().sum() * (sync.loss_scale / 8))
        sync.end_slot(torch.tensor([float(len(part))], dtype=torch.float64))
    (found,), _ = (values.tolist() for values in sync.reduce(torch.zeros(1, dtype=torch.float64)))
    sync.update(lr=1.0, gradient_factor=8 / found)
    for p, old, wanted in zip(network.parameters(), before, mean_gradients(clips), strict=True):
        torch.testing.assert_close(old - p.detach(), wanted)


@pytest.mark.parametrize("reduction", KINDS)
@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_clipping_limits_the_norm_and_keeps_the_direction(reduction: str, limit: float) -> None:
    clips = torch.randn(8, 4, generator=torch.Generator().manual_seed(3))
    network = small_network()
    before = torch.cat([p.detach().flatten() for p in network.parameters()])
    sync = sync_of(network, reduction, clip_grad_norm=limit)
    run_slots(sync, clips.split(2), planned_clips=8)
    sync.update(lr=1.0, gradient_factor=1.0)
    moved = before - torch.cat([p.detach().flatten() for p in network.parameters()])
    wanted = torch.cat([g.flatten() for g in mean_gradients(clips)])
    assert moved.norm().item() == pytest.approx(min(limit, wanted.norm().item()), rel=1e-4)
    assert torch.cosine_similarity(moved, wanted, dim=0).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("reduction", KINDS)
def test_a_step_whose_fp16_gradients_overflow_is_left_out_and_the_loss_scale_halved(reduction: str) -> None:
    network = small_network()
    sync = sync_of(network, reduction, precision="fp16")
    clips = torch.randn(8, 4, generator=torch.Generator().manual_seed(4))
    run_slots(sync, clips.split(2), planned_clips=8)
    sync.update(lr=0.1, gradient_factor=1.0)  # a first step, after which the scaler knows its scale
    state = sync.state_dict()
    assert state is not None
    before, scale = [p.detach().clone() for p in network.parameters()], state["scaler"]["scale"]
    run_slots(sync, (clips * 1e18).split(2), planned_clips=8)  # finite loss, gradients beyond float32 once scaled
    assert not all(g.isfinite().all() for g in gradients(network))
    sync.update(lr=0.1, gradient_factor=1.0)
    after = sync.state_dict()
    assert after is not None
    assert after["scaler"]["scale"] == scale / 2
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert all((g == 0.0).all() for g in gradients(network))  # the next step is not spoilt


@pytest.mark.parametrize("reduction", KINDS)
def test_the_optimizers_state_comes_back_with_the_present_settings(reduction: Any, tmp_path: Path) -> None:
    def made(network: nn.Module, momentum: float) -> GradientSync:
        train = TrainConfig(reduction=reduction, global_batch=8, micro_batch=2)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=momentum)
        return gradient_sync(train, Ranks(0, 1, CPU, 1, OneProcess()), network, optimizer)

    clips = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
    network = small_network()
    sync = made(network, 0.9)
    run_slots(sync, clips.split(2), planned_clips=8)
    sync.update(lr=0.1, gradient_factor=1.0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(network.state_dict(), sync.state_dict(), {"step": 1, "best": []}, "step-00000001")
    restored = made(small_network(), 0.5)
    restored.load(checkpoints.find("last"))
    state = restored.state_dict()
    assert state is not None
    wanted = sync.state_dict()
    assert wanted is not None
    for mine, theirs in zip(state["optimizer"]["state"].values(), wanted["optimizer"]["state"].values(), strict=True):
        assert torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"])
    assert {group["momentum"] for group in state["optimizer"]["param_groups"]} == {0.5}


# --- the fixed tree -------------------------------------------------------------------------------------------


def leaves(count: int) -> list[torch.Tensor]:
    """Numbers of very different size, whose sum depends on the order of addition."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(50, generator=generator) * 10.0 ** (n % 7) for n in range(count)]


def by_halves(values: list[torch.Tensor]) -> torch.Tensor:
    if len(values) == 1:
        return values[0]
    return by_halves(values[: len(values) // 2]) + by_halves(values[len(values) // 2 :])


@pytest.mark.parametrize("count", [1, 2, 4, 8, 32])
def test_the_tree_adds_by_halves(count: int) -> None:
    tree = BinaryTree()
    for values in leaves(count):
        tree.add(values)
    assert torch.equal(tree.root(), by_halves(leaves(count)))
    if count == 8:  # the order does matter for these numbers
        assert not torch.equal(tree.root(), torch.stack(leaves(8)).sum(dim=0))


def test_a_tree_needs_a_power_of_two_of_leaves() -> None:
    tree = BinaryTree()
    for values in leaves(3):
        tree.add(values)
    with pytest.raises(AssertionError):
        tree.root()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("reduction", KINDS)
def test_frozen_parameters_keep_their_values_and_get_no_state_until_they_are_trained(
    reduction: Any, optimizer: Any
) -> None:
    network, settings = small_network(), TrainConfig(reduction=reduction, optimizer=optimizer, weight_decay=0.1)
    made = build_optimizer(network, settings)
    sync = gradient_sync(settings, Ranks(0, 1, CPU, 1, OneProcess()), network, made)
    body, head = list(network[0].parameters()), list(network[2].parameters())  # type: ignore[index]
    for frozen in (True, True, False):
        before = [p.detach().clone() for p in network.parameters()]
        run_slots(sync, [torch.ones(4, 4), torch.full((4, 4), 2.0)], 8)
        sync.update(0.1, 1.0, body if frozen else ())
        changed = [not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True)]
        assert changed == [not frozen] * 2 + [True] * 2
        assert {id(p) for p in made.state} == {id(p) for p in (head if frozen else [*body, *head])}
