"""What a run computes depends on its slots, not on its processes or interruptions: real launchers, real kills."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.evaluation.ledger_audit import verify_run
from kws.models import registry
from kws.run.checkpoint import Checkpoints
from tests.multiproc.conftest import GENTLE, one_worker
from tests.multiproc.launching import (
    accelerate,
    assert_same_bits,
    events,
    finish,
    kill,
    kill_ranks,
    losses,
    saved_step,
    start,
    start_ranks,
    status,
    steps_done,
    wait_until,
)

pytestmark = pytest.mark.multiproc
slow = pytest.mark.slow
Run = Callable[..., Path]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoints(run).find("last").model()


def draws_by_rank(run: Path) -> list[set[int]]:
    """The draws of the first epoch that each rank consumed in the first attempt."""
    paths = sorted((run / "ledger").glob("0001-*.i64"))
    rows = [np.fromfile(path, dtype=np.int64)[2:].reshape(-1, 5) for path in paths]
    return [set(part[part[:, 0] == 0][:, 3].tolist()) for part in rows]


# --- two ranks ------------------------------------------------------------------------------------------------


@one_worker
def test_two_ranks_consume_the_plan_and_no_draw_twice(pair: Path) -> None:
    first, second = draws_by_rank(pair)
    assert first
    assert second
    assert not first & second
    verdict = verify_run(pair)
    assert verdict.faults == []
    assert (verdict.consumed, verdict.replayed) == (6 * 5 * 32, 0)
    assert status(pair)["state"] == "finished"


@one_worker
def test_a_killed_rank_ends_the_other_and_the_resumed_run_has_the_same_bits(
    pair: Path, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ranks = start_ranks(2, config, run, *GENTLE, "train.save_minutes=0")  # saves every step
    try:
        wait_until(lambda: steps_done(run) >= 7, ranks[0])  # in the second epoch
        ranks[1].kill()
        code, output = finish(ranks[0])
    finally:
        kill_ranks(ranks)
    assert code == 1
    assert f"rank 1 on {socket.gethostname()} (process {ranks[1].pid})" in output
    assert "Traceback" not in output
    found = status(run)
    assert (found["state"], found["code"]) == ("failed", 1)
    assert "rank 1" in found["why"]
    assert 0 < saved_step(run) < 30

    code, output = finish(start(accelerate(), config, run, *GENTLE))
    assert code == 0, output
    assert_same_bits(pair, run)
    verdict = verify_run(run)
    assert verdict.faults == []
    assert verdict.consumed == verify_run(pair).consumed
    first, second = events(run, "start")
    assert (first["step"], second["attempt"]) == (0, 2)
    assert second["step"] > 0


# --- a stop ---------------------------------------------------------------------------------------------------


def test_a_signal_saves_and_exits_with_75(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (process,) = start_ranks(1, config, run, "train.epochs=2000", "data.workers=0")
    try:
        wait_until(lambda: steps_done(run) >= 2, process)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        code, output = finish(process)
    finally:
        kill(process)
    assert code == 75, output
    found = status(run)
    assert (found["state"], found["code"], found["signal"]) == ("preempted", 75, signal.SIGTERM)
    assert found["step"] == saved_step(run) > 0
    assert verify_run(run).faults == []


# --- the same in larger numbers -------------------------------------------------------------------------------


@slow
def test_one_two_and_four_processes_train_the_same(train: Run) -> None:
    epochs = "train.epochs=2"
    whole = train(1, "one", epochs, "data.workers=0")
    two = train(2, "two", epochs)
    four = train(4, "four", epochs, "data.workers=0")
    for run, ranks in ((whole, 1), (two, 2), (four, 4)):
        draws = draws_by_rank(run)
        assert len(draws) == ranks
        assert sum(map(len, draws)) == len(set.union(*draws)), "two ranks consumed the same draw"
        assert verify_run(run).faults == []
        assert (verify_run(run).consumed, verify_run(run).replayed) == (2 * 5 * 32, 0)
    for other in (two, four):
        # Equal but for the order of additions: weights, and the running statistics of batch norm.
        np.testing.assert_allclose(losses(whole), losses(other), rtol=1e-3)
        for name, value in weights(whole).items():
            scale = value.abs().max().item() + 1e-3
            assert (value - weights(other)[name]).abs().max().item() < 1e-2 * scale, name


@slow
def test_gradients_and_statistics_of_a_step_are_those_of_one_process(train: Run) -> None:
    """One step of plain gradient descent with learning rate 100: the change of the weights is the gradient. 29 clips in
    8 slots: the slots differ in size."""
    settings = (
        "train.optimizer=sgd", "train.momentum=0", "train.weight_decay=0", "train.lr=100", "train.schedule=constant",
        "train.warmup_epochs=0", "train.epochs=1", "data.sampling=natural", "data.epoch_clips=29", "data.workers=0",
    )  # fmt: skip
    torch.manual_seed(0)
    before = registry.build_model("tc_resnet8", 3, (1, 32, 32)).state_dict()
    whole = weights(train(1, "one", *settings))
    moved = max((value - before[name]).abs().max().item() for name, value in whole.items() if "running" not in name)
    assert moved > 0.01
    for ranks in (2, 4):
        for name, value in weights(train(ranks, f"n{ranks}", *settings)).items():
            limit = 1e-6 * (1.0 if "running" in name else moved)
            assert (value - whole[name]).abs().max().item() <= limit, (ranks, name)


@slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_killed_in_mid_epoch_and_resumed_ends_with_the_same_bits(
    ranks: int, train: Run, config: Path, tmp_path: Path
) -> None:
    settings = ("train.global_batch=24", "train.epochs=3", "train.save_minutes=0")  # 6 slots; saves every step
    whole = train(ranks, "whole", *settings)
    broken = tmp_path / "broken"
    process = start(ranks, config, broken, *settings)
    wait_until(lambda: steps_done(broken) >= 8, process)  # in the second epoch
    kill(process)
    process.communicate()
    train(ranks, "broken", *settings)
    assert_same_bits(whole, broken)
    assert verify_run(broken).faults == []
    assert verify_run(broken).consumed == verify_run(whole).consumed
    assert events(broken, "start")[1]["step"] > 0


@slow
def test_killed_and_resumed_on_other_numbers_of_processes_consumes_the_plan(
    train: Run, config: Path, tmp_path: Path
) -> None:
    settings = ("train.global_batch=24", "train.micro_batch=2", "train.epochs=4", "train.save_minutes=0")  # 12 slots
    run = tmp_path / "elastic"
    for ranks, at in ((4, 4), (2, 13)):
        process = start(ranks, config, run, *settings)
        wait_until(lambda at=at: steps_done(run) >= at, process)
        kill(process)
        process.communicate()
    train(3, "elastic", *settings)
    starts = events(run, "start")
    assert [row["world_size"] for row in starts] == [4, 2, 3]
    assert 0 < starts[1]["step"] < starts[2]["step"]
    verdict = verify_run(run)
    assert verdict.faults == []
    assert verdict.consumed == 4 * 24 * starts[0]["steps_per_epoch"]


@slow
def test_a_signal_saves_and_the_resumed_run_has_the_same_bits(train: Run, config: Path, tmp_path: Path) -> None:
    settings = ("train.epochs=8", "train.seed=5")
    whole = train(1, "whole", *settings)
    stopped = tmp_path / "stopped"
    process = start(1, config, stopped, *settings)
    wait_until(lambda: steps_done(stopped) >= 7, process)
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    assert 0 < status(stopped)["step"] < 40
    train(1, "stopped", *settings)
    assert_same_bits(whole, stopped)


@slow
def test_everything_that_the_front_end_draws_resumes_with_the_same_bits_on_any_number_of_processes(
    train: Run, config: Path, tmp_path: Path
) -> None:
    settings = (
        "frontend.augment=classic", "frontend.mixup_probability=0.5", "frontend.normalise=corpus",
        "frontend.time_masks=1", "data.silence=0.2", "data.clip_seconds=0.35", "train.epochs=2",
        "train.save_minutes=0", "data.workers=0",
    )  # fmt: skip
    whole, two = train(1, "whole", *settings), train(2, "two", *settings)
    broken = tmp_path / "broken"
    process = start(1, config, broken, *settings)
    wait_until(lambda: steps_done(broken) >= 4, process)
    kill(process)
    process.communicate()
    train(1, "broken", *settings)
    assert_same_bits(whole, broken)
    for run in (whole, two, broken):
        assert verify_run(run).faults == []
        state = Checkpoints(run).find("last").state
        assert "silence" in state["classes"]
        assert len(state["normal"][0]) == 32
    assert losses(two)[0] == pytest.approx(losses(whole)[0], rel=1e-12), "before any update"
    np.testing.assert_allclose(losses(whole), losses(two), rtol=2e-3)


@slow
def test_natural_sampling_with_slots_without_clips(train: Run) -> None:
    # 67 clips in batches of 32: in the last step some of the 8 slots have one clip, and the others none.
    settings = ("data.sampling=natural", "data.epoch_clips=67", "train.epochs=2", "data.workers=0")
    runs = [train(1, "one", *settings), train(4, "four", *settings)]
    for run in runs:
        assert verify_run(run).faults == []
        assert verify_run(run).consumed == 2 * 67
    np.testing.assert_allclose(losses(runs[0]), losses(runs[1]), rtol=2e-3)


@slow
def test_processes_that_do_not_divide_the_slots_are_refused(config: Path, tmp_path: Path) -> None:
    code, output = finish(start(3, config, tmp_path / "run"))
    assert code != 0
    (line,) = [line for line in output.splitlines() if line.startswith("kws:")]
    assert "1, 2, 4, 8 processes" in line
    assert not (tmp_path / "run").exists()
