import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kws.config import TrainConfig
from kws.training.optim import Plateau, build_optimizer, keep_settings, load_state, lr_at, set_lr

STEPS = 10
COSINE = TrainConfig(lr=0.1, epochs=5, warmup_epochs=1.0, schedule="cosine")


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3))


def test_warm_up_rises_in_equal_steps_to_the_highest_rate() -> None:
    rates = [lr_at(step, STEPS, COSINE) for step in range(STEPS)]
    assert rates == pytest.approx([0.1 * (step + 1) / STEPS for step in range(STEPS)])


def test_cosine_falls_from_the_highest_rate_to_zero() -> None:
    assert lr_at(STEPS, STEPS, COSINE) == pytest.approx(0.1)
    assert lr_at(30, STEPS, COSINE) == pytest.approx(0.05)
    assert lr_at(20, STEPS, COSINE) == pytest.approx(0.05 * (1 + math.cos(math.pi / 4)))
    assert 0.0 < lr_at(49, STEPS, COSINE) < 0.001
    assert lr_at(50, STEPS, COSINE) == pytest.approx(0.0)
    assert lr_at(80, STEPS, COSINE) == pytest.approx(0.0)


def test_the_rate_never_rises_after_the_warm_up() -> None:
    rates = [lr_at(step, STEPS, COSINE) for step in range(STEPS - 1, 50)]
    assert rates == sorted(rates, reverse=True)


def test_constant_stays_after_the_warm_up() -> None:
    settings = dataclasses.replace(COSINE, schedule="constant", warmup_epochs=0.5)
    assert [lr_at(step, STEPS, settings) for step in (0, 4, 5, 49)] == pytest.approx([0.02, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("warmup", [0.0, 5.0, 9.0])
def test_no_warm_up_and_one_longer_than_the_run_are_finite(warmup: float) -> None:
    settings = dataclasses.replace(COSINE, warmup_epochs=warmup)
    assert all(0.0 <= lr_at(step, STEPS, settings) <= 0.1 for step in range(60))
    assert lr_at(0, STEPS, settings) > 0.0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(name: str) -> None:
    model = small()
    optimizer = build_optimizer(model, TrainConfig(optimizer=name, weight_decay=0.1))  # type: ignore[arg-type]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {key: decay[id(p)] for key, p in model.named_parameters()} == {
        key: 0.1 if p.ndim > 1 else 0.0 for key, p in model.named_parameters()
    }


def test_frozen_parameters_are_left_out_and_a_group_may_be_empty() -> None:
    model = nn.Linear(2, 2, bias=False)
    assert len(build_optimizer(model, TrainConfig()).param_groups) == 1
    both = small().requires_grad_(False)
    both[3].requires_grad_(True)  # type: ignore[index]
    held = [p for group in build_optimizer(both, TrainConfig()).param_groups for p in group["params"]]
    assert len(held) == 2


def test_sgd_has_nesterov_momentum_where_there_is_momentum() -> None:
    groups = build_optimizer(small(), TrainConfig(optimizer="sgd", momentum=0.8)).param_groups
    assert all(group["nesterov"] and group["momentum"] == 0.8 for group in groups)
    plain = build_optimizer(small(), TrainConfig(optimizer="sgd", momentum=0.0))
    assert not any(group["nesterov"] for group in plain.param_groups)


def test_the_optimizer_is_the_one_asked_for_and_every_group_gets_the_rate() -> None:
    assert isinstance(build_optimizer(small(), TrainConfig(optimizer="sgd")), torch.optim.SGD)
    adamw = build_optimizer(small(), TrainConfig(optimizer="adamw", lr=0.3))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [group["lr"] for group in adamw.param_groups] == [0.3, 0.3]
    set_lr(adamw, 0.2)
    assert [group["lr"] for group in adamw.param_groups] == [0.2, 0.2]


def test_decay_all_decays_norms_and_biases_too() -> None:
    (group,) = build_optimizer(small(), TrainConfig(weight_decay=0.1, decay_all=True)).param_groups
    assert group["weight_decay"] == 0.1
    assert len(group["params"]) == 6


def test_steps_fall_by_the_factor() -> None:
    settings = dataclasses.replace(COSINE, schedule="step", step_epochs=2, factor=0.5, warmup_epochs=0.0, epochs=6)
    rates = [lr_at(epoch * STEPS, STEPS, settings) for epoch in range(6)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    assert lr_at(2 * STEPS - 1, STEPS, settings) == pytest.approx(0.1)


def test_one_cycle_equals_torch() -> None:
    settings = dataclasses.replace(COSINE, schedule="onecycle", epochs=5)
    optimizer = torch.optim.SGD(small().parameters(), lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=50, cycle_momentum=False)
    wanted = []
    for _ in range(50):
        wanted.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    ours = [lr_at(step, STEPS, settings) for step in range(50)]
    assert max(ours) == pytest.approx(0.1, rel=0.01)
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)


def test_plateau_equals_torch() -> None:
    settings = dataclasses.replace(COSINE, schedule="plateau", patience=2, factor=0.1, warmup_epochs=0.0)
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, factor=0.1)
    ours = Plateau()
    for loss in (2.0, 1.5, 1.6, 1.5, 1.7, 1.8, 1.4, 1.39999, 1.5, 1.5, 1.5, 1.5, 1.5, 0.9, 0.8):
        theirs.step(loss)
        ours.record_loss(loss, settings)
        assert lr_at(7, STEPS, settings, ours.scale) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.scale < 0.05


def test_loading_a_state_keeps_the_settings() -> None:
    old, new = (
        build_optimizer(small(), TrainConfig(optimizer="sgd", momentum=m, weight_decay=w))
        for m, w in ((0.9, 0.1), (0.5, 0.2))
    )
    for group in old.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    old.step()
    with keep_settings(new):
        new.load_state_dict(old.state_dict())
    assert [(group["momentum"], group["weight_decay"]) for group in new.param_groups] == [(0.5, 0.2), (0.5, 0.0)]
    assert all("momentum_buffer" in new.state[p] for group in new.param_groups for p in group["params"])


@pytest.mark.parametrize("saved_fused", [True, None])
def test_the_state_of_a_fused_optimizer_loads_into_one_that_is_not_and_back(saved_fused: bool | None) -> None:
    def stepped(fused: bool | None, state: dict[str, Any] | None = None) -> tuple[torch.optim.Optimizer, list[Tensor]]:
        torch.manual_seed(0)
        model = small()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
        if state:
            load_state(optimizer, copy.deepcopy(state))  # as from a file
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        return optimizer, [p.detach() for p in model.parameters()]

    saved, _ = stepped(saved_fused)
    other = None if saved_fused else True
    same, wanted = stepped(saved_fused, saved.state_dict())
    loaded, found = stepped(other, saved.state_dict())
    assert [group["fused"] for group in (*same.param_groups, *loaded.param_groups)] == [saved_fused, other]
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)
    assert {int(values["step"]) for values in loaded.state.values()} == {2}


def test_optimizers_on_a_cpu_are_not_fused() -> None:
    for name in ("sgd", "adamw"):
        optimizer = build_optimizer(small(), TrainConfig(optimizer=name))  # type: ignore[arg-type]
        assert {group["fused"] for group in optimizer.param_groups} == {None}
        assert not optimizer.state
