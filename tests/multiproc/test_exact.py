"""reduction = "exact": one optimisation, to the last bit, on any number of processes and through changes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kws.evaluation.ledger_audit import verify_run
from kws.run.checkpoint import Checkpoints
from tests.multiproc.launching import ALONE, finish, kill, start, torchrun

pytestmark = pytest.mark.multiproc
Run = Callable[..., Path]
# Everything that could tell processes apart: averaged weights, mixup, clipping, a schedule that hangs on the
# validation loss.
EXACT = (
    "train.reduction=exact", "train.threads=0", "train.epochs=2", "train.ema=0.9", "train.clip_grad_norm=1",
    "train.schedule=plateau", "train.patience=1", "frontend.augment=classic", "frontend.mixup_probability=0.5",
    "train.save_minutes=0", "data.workers=0",
)  # fmt: skip


def state_of(run: Path) -> dict[str, object]:
    """Every number that a resumed run would go on from."""
    checkpoint = Checkpoints(run).find("last")
    averaged = checkpoint.ema()
    assert averaged is not None
    optimizer = checkpoint.optimizer()["optimizer"]["state"]
    moments = {f"{number}.{key}": value for number, part in optimizer.items() for key, value in part.items()}
    kept = ("step", "best_accuracy", "best_loss", "since_best", "plateau")
    return {**checkpoint.model(), **{f"ema.{k}": v for k, v in averaged.items()}, **moments} | {
        key: checkpoint.state[key] for key in kept
    }


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = state_of(one), state_of(other)
    assert a.keys() == b.keys()
    unequal = [
        key
        for key, value in a.items()
        if not (torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key])  # type: ignore[arg-type]
    ]
    assert unequal == []


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "step"]


def test_one_two_and_four_processes_end_with_the_same_bits_and_say_the_same_losses(train: Run) -> None:
    one, two, four = (
        train(launcher, name, *EXACT)
        for launcher, name in ((ALONE, "one"), (torchrun(2), "two"), (torchrun(4), "four"))
    )
    assert json.loads((one / "run.json").read_text())["threads"] == 1
    for other in (two, four):
        assert_same_bits(one, other)
        assert losses(one) == losses(other)


def test_a_run_killed_and_resumed_on_other_numbers_of_processes_ends_with_the_bits_of_one_left_alone(
    train: Run, config: Path, tmp_path: Path
) -> None:
    whole, broken = train(ALONE, "whole", *EXACT), tmp_path / "broken"
    for ranks, at in ((2, 2), (4, 5)):
        process = start(torchrun(ranks), config, broken, *EXACT)
        until = time.monotonic() + 200
        while saved(broken) < at and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert saved(broken) >= at, finish(process)[1]
        kill(process)
        process.communicate()
    train(ALONE, "broken", *EXACT)
    assert_same_bits(whole, broken)
    verdict = verify_run(broken)
    assert verdict.faults == []
    rows = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert [row["world_size"] for row in rows if row["event"] == "start"] == [2, 4, 1]


def saved(run: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")), default=0)


@pytest.mark.slow
def test_the_last_step_of_natural_sampling_with_slots_without_clips(train: Run) -> None:
    settings = (*EXACT, "data.sampling=natural", "data.epoch_clips=67", "train.epochs=2")
    assert_same_bits(train(ALONE, "n1", *settings), train(torchrun(4), "n4", *settings))


def test_slots_that_are_no_power_of_two_are_refused(config: Path, tmp_path: Path) -> None:
    settings = ("train.reduction=exact", "train.global_batch=24")
    code, output = finish(start(ALONE, config, tmp_path / "run", *settings))
    assert code == 2
    assert "exact wants a power of two of slots, not 6 (global_batch 24 / micro_batch 4)" in output
