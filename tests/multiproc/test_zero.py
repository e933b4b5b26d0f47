"""DeepSpeed's ZeRO-1 and ZeRO-2: the optimisation of DDP, also killed, resumed, and on another number of ranks."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kws.evaluation.ledger_audit import verify_run
from kws.run.checkpoint import Checkpoints
from tests.multiproc.conftest import GENTLE
from tests.multiproc.launching import (
    ALONE,
    accelerate,
    assert_close,
    events,
    finish,
    kill,
    losses,
    overrides,
    saved_step,
    start,
    wait_until,
)

pytestmark = pytest.mark.multiproc
one_worker = pytest.mark.xdist_group("zero")
"""For tests that use `uninterrupted`: one pytest worker runs them, and trains each of its runs once."""
slow = pytest.mark.slow
Run = Callable[..., Path]
SGD = ("train.optimizer=sgd", "train.lr=0.02")


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """uninterrupted(*settings) is a run on two ranks to its end; the same folder for the same settings."""

    @functools.cache
    def run(*settings: str) -> Path:
        folder = tmp_path_factory.mktemp("uninterrupted") / "run"
        code, output = finish(start(2, config, folder, *settings))
        assert code == 0, output
        return folder

    return run


def num_shards(run: Path) -> int:
    return len(list(Checkpoints(run).find("last").optimizer_shards.glob("*_optim_states.pt")))


@slow
@one_worker
@pytest.mark.parametrize("launch_file", [False, pytest.param(True, marks=pytest.mark.heavy)])
def test_stage_1_has_the_losses_and_weights_of_ddp(
    uninterrupted: Run, train: Run, config: Path, kws_here: Callable[..., int], capsys: pytest.CaptureFixture[str],
    launch_file: bool,
) -> None:  # fmt: skip
    ddp = uninterrupted(*GENTLE, "train.zero=0")
    run = train(accelerate("zero1.yaml"), "zero", *GENTLE) if launch_file else uninterrupted(*GENTLE, "train.zero=1")
    assert_close(ddp, run)
    assert num_shards(run) == 2
    description = json.loads((run / "run.json").read_text())
    assert (description["zero"], description["world_size"]) == (1, 2)
    # A resumed run keeps the stage.
    assert kws_here("train", config, "--run", run, *overrides(*GENTLE)) == 2
    assert "train.zero: 1" in capsys.readouterr().err


@slow
@one_worker
@pytest.mark.parametrize("optimizer", [(), pytest.param(SGD, marks=pytest.mark.heavy)])
def test_both_stages_have_the_losses_and_weights_of_ddp(uninterrupted: Run, optimizer: tuple[str, ...]) -> None:
    ddp, one, two = (uninterrupted(*GENTLE, *optimizer, f"train.zero={stage}") for stage in range(3))
    for run in (one, two):
        assert_close(ddp, run)
        assert num_shards(run) == 2


@slow
@one_worker
@pytest.mark.parametrize("stage", [1, 2])
def test_killed_and_resumed_equals_uninterrupted(
    stage: int, train: Run, uninterrupted: Run, config: Path, tmp_path: Path
) -> None:
    settings, broken = (*GENTLE, f"train.zero={stage}"), tmp_path / "broken"
    train_until(8, start(2, config, broken, *settings, "train.save_minutes=0"), broken)
    train(2, "broken", *settings)
    assert_close(uninterrupted(*settings), broken)
    assert verify_run(broken).faults == []
    assert verify_run(broken).consumed == 30 * 32


def train_until(step: int, process: subprocess.Popen[str], run: Path) -> None:
    """Kills the run when it has saved that step or a later one."""
    wait_until(lambda: saved_step(run) >= step, process)
    kill(process)
    process.communicate()


@slow
@one_worker
@pytest.mark.parametrize(
    ("stage", "optimizer", "numbers_of_ranks"),
    [(1, SGD, (2, 1)), (2, (), (1, 2)), pytest.param(2, SGD, (2, 4, 1), marks=pytest.mark.heavy)],
)
def test_resumed_on_another_number_of_ranks_it_continues_with_the_same_optimizer(
    stage: int, optimizer: tuple[str, ...], numbers_of_ranks: tuple[int, ...], train: Run, uninterrupted: Run,
    config: Path, tmp_path: Path,
) -> None:  # fmt: skip
    settings = (*GENTLE, *optimizer, f"train.zero={stage}")
    whole, run = uninterrupted(*settings), tmp_path / "elastic+(2"  # a name that is no regular expression
    for number, ranks in enumerate(numbers_of_ranks[:-1], start=1):
        train_until(6 * number, start(ranks, config, run, *settings, "train.save_minutes=0"), run)
    train(numbers_of_ranks[-1], run.name, *settings)
    assert tuple(row["world_size"] for row in events(run, "start")) == numbers_of_ranks
    assert_close(whole, run, 1e-4)
    assert verify_run(run).faults == []
    assert sorted(path.name for path in (run / "checkpoints").glob(".*")) == []


@slow
@pytest.mark.parametrize("stage", [1, 2])
def test_slots_without_clips_do_not_block_other_ranks(stage: int, train: Run) -> None:
    settings = ("data.sampling=natural", "data.epoch_clips=67", "train.epochs=2", "train.lr=0.0003", "data.workers=0")
    ddp = train(2, "ddp", *settings)
    zero = train(2, "zero", *settings, f"train.zero={stage}")
    np.testing.assert_allclose(losses(ddp), losses(zero), rtol=0, atol=1e-5)


@slow
def test_a_run_with_bf16_is_evaluated(train: Run, kws_here: Callable[..., int]) -> None:
    run = train(2, "run", "train.epochs=1", "train.precision=bf16", "train.zero=1", "data.workers=0")
    assert kws_here("evaluate", run, "--split", "valid") == 0


@slow
def test_a_full_disk_while_saving_shards_is_one_line(config: Path, tmp_path: Path) -> None:
    limited = ["bash", "-c", 'ulimit -f 400; exec "$@"', "bash", *ALONE]  # KB per file: weights fit, Adam's state not
    code, output = finish(start(limited, config, tmp_path / "run", "train.zero=1", "train.epochs=1"))
    assert code == 2, output
    (line,) = [line for line in output.splitlines() if line.startswith("kws:")]
    assert "zero: checkpoint cannot be written (" in line


@slow
def test_a_single_rank_trains_as_without_zero(train: Run) -> None:
    assert_close(train(1, "plain", *GENTLE), train(1, "zero", *GENTLE, "train.zero=1"))
