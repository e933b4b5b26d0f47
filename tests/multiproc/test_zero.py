"""DeepSpeed's ZeRO-1 and ZeRO-2 on real processes: the optimisation of DDP, also killed, resumed, on another number."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.evaluation.ledger_audit import verify_run
from kws.run.checkpoint import Checkpoints
from tests.multiproc.launching import ALONE, ROOT, finish, kill, start, torchrun

pytestmark = [pytest.mark.multiproc, pytest.mark.xdist_group("zero")]
Run = Callable[..., Path]
# Small steps, or the rounding of another order of addition would grow.
SETTINGS = (
    "train.epochs=4", "train.lr=0.0001", "train.ema=0.9", "train.clip_grad_norm=0.5", "train.eval_epochs=2",
    "data.workers=0",
)  # fmt: skip
SGD = ("train.optimizer=sgd", "train.lr=0.02")


@pytest.fixture(scope="module")
def left_alone(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """left_alone(*settings) is a run on two processes to its end, the same for the same settings."""

    @functools.cache
    def run(*settings: str) -> Path:
        folder = tmp_path_factory.mktemp("alone") / "run"
        code, output = finish(start(torchrun(2), config, folder, *settings))
        assert code == 0, output
        return folder

    return run


def losses(run: Path) -> list[float]:
    """Of each step; of one done twice the later."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {row["step"]: row["loss"] for row in rows if row["event"] == "step"}
    return [found[step] for step in sorted(found)]


def numbers(run: Path) -> dict[str, torch.Tensor]:
    """Weights, running statistics and averaged weights at the end."""
    last = Checkpoints(run).find("last")
    averaged = last.ema()
    assert averaged is not None
    assert last.state["step"] == 20
    return {**last.model(), **{f"ema.{name}": value for name, value in averaged.items()}}


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    a, b = numbers(one), numbers(other)
    assert a.keys() == b.keys()
    np.testing.assert_allclose(losses(one), losses(other), rtol=0, atol=tolerance)
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("settings", [SETTINGS, pytest.param((*SETTINGS, *SGD), marks=pytest.mark.slow)])
def test_both_stages_have_the_losses_and_weights_of_ddp(left_alone: Run, settings: tuple[str, ...]) -> None:
    ddp, one, two = (left_alone(*settings, f"train.zero={stage}") for stage in range(3))
    assert len(losses(ddp)) == 20
    for run in (one, two):
        assert_close(ddp, run)
        parts = sorted(path.name for path in Checkpoints(run).find("last").optimizer_shards.glob("*_optim_states.pt"))
        assert len(parts) == 2


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_and_resumed_ends_as_if_left_alone(
    stage: int, train: Run, left_alone: Run, config: Path, tmp_path: Path
) -> None:
    settings, broken = (*SETTINGS, f"train.zero={stage}"), tmp_path / "broken"
    train_until(8, start(torchrun(2), config, broken, *settings, "train.save_minutes=0"), broken)
    train(torchrun(2), "broken", *settings)
    assert_close(left_alone(*settings), broken)
    verdict = verify_run(broken)
    assert verdict.faults == []
    assert verdict.consumed == 20 * 32


def train_until(step: int, process: subprocess.Popen[str], run: Path) -> None:
    """Kills the run when it has saved that step or a later one."""
    until = time.monotonic() + 200
    while saved(run) < step and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert process.poll() is None, finish(process)[1]
    kill(process)
    process.communicate()
    assert saved(run) >= step


def saved(run: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")), default=0)


@pytest.mark.parametrize(
    ("stage", "optimizer", "numbers_of_ranks"),
    [
        pytest.param(1, SGD, (2, 1), marks=pytest.mark.slow),
        (2, (), (1, 2)),
        pytest.param(2, SGD, (2, 4, 1), marks=pytest.mark.slow),
    ],
)
def test_resumed_on_another_number_of_processes_it_goes_on_with_the_optimizer_it_had(
    stage: int, optimizer: tuple[str, ...], numbers_of_ranks: tuple[int, ...], train: Run, left_alone: Run,
    config: Path, tmp_path: Path,
) -> None:  # fmt: skip
    settings = (*SETTINGS, *optimizer, f"train.zero={stage}")
    whole, run = left_alone(*settings), tmp_path / "elastic+(2"
    for number, ranks in enumerate(numbers_of_ranks[:-1], start=1):
        train_until(6 * number, start(torchrun(ranks), config, run, *settings, "train.save_minutes=0"), run)
    train(torchrun(numbers_of_ranks[-1]), run.name, *settings)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert tuple(row["world_size"] for row in rows if row["event"] == "start") == numbers_of_ranks
    assert_close(whole, run, 1e-4)
    assert verify_run(run).faults == []
    assert sorted(path.name for path in (run / "checkpoints").glob(".*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_slots_without_clips_hold_nobody_up(stage: int, train: Run) -> None:
    settings = ("data.sampling=natural", "data.epoch_clips=67", "train.epochs=2", "train.lr=0.0003", "data.workers=0")
    ddp = train(torchrun(2), "ddp", *settings)
    cut = train(torchrun(2), "cut", *settings, f"train.zero={stage}")
    np.testing.assert_allclose(losses(ddp), losses(cut), rtol=0, atol=1e-5)


def test_a_launch_file_chooses_the_stage_which_a_resumed_run_keeps(
    train: Run, config: Path, kws: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "zero1.yaml")]
    settings = ("train.epochs=1", "train.precision=bf16", "data.workers=0")
    run = train([*launch, "-m", "kws"], "run", *settings)
    facts = json.loads((run / "run.json").read_text())
    assert (facts["zero"], facts["world_size"]) == (1, 2)
    code, output = finish(start(ALONE, config, run, *settings))
    assert code == 2
    assert "train.zero: 1 there, 0 now" in output
    evaluated = kws("evaluate", run, "--split", "valid")
    assert evaluated.returncode == 0, evaluated.stderr


def test_a_disk_that_refuses_a_part_is_one_line_and_says_what_to_do(config: Path, tmp_path: Path) -> None:
    limited = ["bash", "-c", 'ulimit -f 400; exec "$@"', "bash", *ALONE]  # KB a file: the weights fit, Adam's state not
    code, output = finish(start(limited, config, tmp_path / "run", "train.zero=1", "train.epochs=1"))
    assert code == 2, output
    lines = [line for line in output.splitlines() if line.startswith("kws:")]
    assert len(lines) == 1, output
    assert "zero: checkpoint cannot be written (" in lines[0]
    assert lines[0].endswith("make room, then run the same again")


@pytest.mark.slow
def test_alone_it_is_as_without(train: Run) -> None:
    settings = (*SETTINGS, "train.zero=1")
    assert_close(train(ALONE, "plain", *SETTINGS), train(ALONE, "cut", *settings))
