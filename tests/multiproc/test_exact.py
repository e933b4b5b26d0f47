"""reduction = "exact": the same bits on any number of processes, and after changing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kws.evaluation.ledger_audit import verify_run
from tests.multiproc.launching import (
    assert_same_bits,
    events,
    finish,
    kill,
    losses,
    overrides,
    saved_step,
    start,
    train_killed_and_resumed,
    wait_until,
)

pytestmark = pytest.mark.multiproc
slow = pytest.mark.slow
Run = Callable[..., Path]
# Everything that could depend on the number of processes: averaged weights, mixup, clipping, a frozen body, a schedule
# that depends on the validation loss.
EXACT = (
    "train.reduction=exact", "train.threads=0", "train.epochs=4", "train.eval_epochs=2", "train.ema=0.9",
    "train.clip_grad_norm=1", "train.freeze_epochs=2", "train.schedule=plateau", "train.patience=1",
    "frontend.augment=classic", "frontend.mixup_probability=0.5", "train.save_minutes=0", "data.workers=0",
)  # fmt: skip


def test_killed_on_two_processes_and_resumed_on_four_has_the_bits_of_one_process(
    config: Path, tmp_path: Path, kws_here: Callable[..., int], teachers: str
) -> None:
    one, run, settings = tmp_path / "one", tmp_path / "run", (*EXACT, teachers)
    assert kws_here("train", config, "--run", one, *overrides(*settings)) == 0
    train_killed_and_resumed(config, run, *settings, saved=2)
    assert_same_bits(one, run)
    assert losses(one) == losses(run)
    verdict = verify_run(run)
    assert verdict.faults == []
    assert verdict.consumed == 20 * 32


@slow
def test_one_two_and_four_processes_have_the_same_bits_and_losses(train: Run) -> None:
    one, two, four = (train(launcher, name, *EXACT) for launcher, name in ((1, "one"), (2, "two"), (4, "four")))
    for other in (two, four):
        assert_same_bits(one, other)
        assert losses(one) == losses(other)


@slow
def test_killed_twice_and_resumed_on_other_numbers_of_processes_has_the_same_bits(
    train: Run, config: Path, tmp_path: Path
) -> None:
    whole, broken = train(1, "whole", *EXACT), tmp_path / "broken"
    for ranks, at in ((2, 2), (4, 5)):
        process = start(ranks, config, broken, *EXACT)
        wait_until(lambda at=at: saved_step(broken) >= at, process)
        kill(process)
        process.communicate()
    train(1, "broken", *EXACT)
    assert_same_bits(whole, broken)
    assert verify_run(broken).faults == []
    assert [row["world_size"] for row in events(broken, "start")] == [2, 4, 1]


@slow
def test_natural_sampling_with_slots_without_clips_has_the_same_bits(train: Run) -> None:
    settings = (*EXACT, "data.sampling=natural", "data.epoch_clips=67", "train.epochs=3")
    assert_same_bits(train(1, "n1", *settings), train(4, "n4", *settings))


@slow
def test_a_number_of_slots_that_is_no_power_of_two_is_refused(config: Path, tmp_path: Path) -> None:
    settings = ("train.reduction=exact", "train.global_batch=24")
    code, output = finish(start(1, config, tmp_path / "run", *settings))
    assert code == 2
    assert "power of two" in output
    assert "24 / micro_batch 4" in output
