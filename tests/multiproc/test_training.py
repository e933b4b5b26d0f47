"""Real processes, real launchers, real kills: what a run computes hangs on its slots and on nothing else."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kws.evaluation.ledger_audit import verify_run
from kws.models import registry
from kws.run.checkpoint import Checkpoints
from tests.multiproc.launching import ALONE, accelerate, finish, kill, start, steps_done, torchrun, wait_until

pytestmark = pytest.mark.multiproc
Run = Callable[..., Path]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(Checkpoints(run).find("last").path / "model.safetensors")


def _assert_equal(a: Path, b: Path) -> None:
    one, two = _weights(a), _weights(b)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def _losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["event"] == "step"]


def _consumed(run: Path) -> list[set[int]]:
    """The draws of each rank in the first epoch."""
    paths = sorted((run / "ledger").glob("0001-*.i64"))
    rows = [np.fromfile(path, dtype=np.int64)[2:].reshape(-1, 5) for path in paths]
    return [set(part[part[:, 0] == 0][:, 3].tolist()) for part in rows]


def test_one_two_and_four_processes_train_the_same(train: Run) -> None:
    epochs = "train.epochs=2"
    whole = train(ALONE, "one", epochs, "data.workers=0")
    pair = train(accelerate(), "two", epochs, "train.processes=2")
    four = train(torchrun(4), "four", epochs, "data.workers=0")
    for run, ranks in ((whole, 1), (pair, 2), (four, 4)):
        draws = _consumed(run)
        assert len(draws) == ranks
        assert sum(map(len, draws)) == len(set.union(*draws)), "two ranks consumed the same draw"
        verdict = verify_run(run)
        assert verdict.faults == []
        assert (verdict.consumed, verdict.replayed) == (2 * 5 * 32, 0)
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
        assert len(json.loads((run / "run.json").read_text())["ranks"]) == ranks
    for other in (pair, four):
        # Equal but for the order in which numbers are added: weights, and batch norm's running statistics.
        np.testing.assert_allclose(_losses(whole), _losses(other), rtol=1e-3)
        for name, value in _weights(whole).items():
            scale = value.abs().max().item() + 1e-3
            assert (value - _weights(other)[name]).abs().max().item() < 1e-2 * scale, name


def test_gradients_and_statistics_of_a_step_are_those_of_one_process(train: Run) -> None:
    """One step of plain gradient descent at a rate of 100: what the weights moved by is the gradient. 29 clips in 8
    slots: not all have as many."""
    settings = (
        "train.optimizer=sgd", "train.momentum=0", "train.weight_decay=0", "train.lr=100", "train.schedule=constant",
        "train.warmup_epochs=0", "train.epochs=1", "data.sampling=natural", "data.epoch_clips=29", "data.workers=0",
    )  # fmt: skip
    torch.manual_seed(0)
    before = registry.build_model("tc_resnet8", 3, (1, 32, 32)).state_dict()
    whole = _weights(train(ALONE, "one", *settings))
    moved = max((value - before[name]).abs().max().item() for name, value in whole.items() if "running" not in name)
    assert moved > 0.01
    for ranks in (2, 4):
        for name, value in _weights(train(torchrun(ranks), f"n{ranks}", *settings)).items():
            limit = 1e-6 * (1.0 if "running" in name else moved)
            assert (value - whole[name]).abs().max().item() <= limit, (ranks, name)


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_killed_in_mid_epoch_and_resumed_ends_with_the_same_bits(
    ranks: int, train: Run, config: Path, tmp_path: Path
) -> None:
    settings = ("train.global_batch=24", "train.epochs=3", "train.save_minutes=0")  # 6 slots; saves every step
    whole = train(torchrun(ranks), "whole", *settings)
    broken = tmp_path / "broken"
    process = start(torchrun(ranks), config, broken, *settings)
    wait_until(lambda: steps_done(broken) >= 8, process)  # in the second epoch
    kill(process)
    process.communicate()
    train(torchrun(ranks), "broken", *settings)
    _assert_equal(whole, broken)
    verdict = verify_run(broken)
    assert verdict.faults == []
    assert verdict.consumed == verify_run(whole).consumed
    starts = [line for line in (broken / "metrics.jsonl").read_text().splitlines() if '"start"' in line]
    assert len(starts) == 2
    assert json.loads(starts[1])["step"] > 0


@pytest.mark.slow  # test_exact.py has it in the same way, and more
def test_killed_and_resumed_on_other_numbers_of_processes_consumes_the_plan(
    train: Run, config: Path, tmp_path: Path
) -> None:
    settings = ("train.global_batch=24", "train.micro_batch=2", "train.epochs=4", "train.save_minutes=0")  # 12 slots
    run = tmp_path / "elastic"
    for ranks, at in ((4, 4), (2, 13)):
        process = start(torchrun(ranks), config, run, *settings)
        wait_until(lambda at=at: steps_done(run) >= at, process)
        kill(process)
        process.communicate()
    train(torchrun(3), "elastic", *settings)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    starts = [row for row in rows if row["event"] == "start"]
    assert [row["world_size"] for row in starts] == [4, 2, 3]
    assert 0 < starts[1]["step"] < starts[2]["step"]
    verdict = verify_run(run)
    assert verdict.faults == []
    assert verdict.consumed == 4 * 24 * json.loads((run / "run.json").read_text())["steps_per_epoch"]


def test_a_signal_saves_and_the_rest_is_as_if_nothing_happened(train: Run, config: Path, tmp_path: Path) -> None:
    settings = ("train.epochs=8", "train.seed=5")
    whole = train(ALONE, "whole", *settings)
    stopped = tmp_path / "stopped"
    process = start(ALONE, config, stopped, *settings)
    wait_until(lambda: steps_done(stopped) >= 7, process)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 75, output
    status = json.loads((stopped / "status.json").read_text())
    assert (status["state"], status["signal"]) == ("preempted", signal.SIGTERM)
    assert 0 < status["step"] < 40
    train(ALONE, "stopped", *settings)
    _assert_equal(whole, stopped)


def test_all_that_the_front_end_draws_resumes_with_the_same_bits_and_hangs_on_no_number_of_processes(
    train: Run, config: Path, tmp_path: Path
) -> None:
    settings = (
        "frontend.augment=classic", "frontend.mixup_probability=0.5", "frontend.normalise=corpus",
        "frontend.time_masks=1", "data.silence=0.2", "data.clip_seconds=0.35", "train.epochs=2",
        "train.save_minutes=0", "data.workers=0",
    )  # fmt: skip
    whole, pair = train(ALONE, "whole", *settings), train(torchrun(2), "pair", *settings)
    broken = tmp_path / "broken"
    process = start(ALONE, config, broken, *settings)
    wait_until(lambda: steps_done(broken) >= 4, process)
    kill(process)
    process.communicate()
    train(ALONE, "broken", *settings)
    _assert_equal(whole, broken)
    for run in (whole, pair, broken):
        assert verify_run(run).faults == []
        state = Checkpoints(run).find("last").state
        assert "silence" in state["classes"]
        assert len(state["normal"][0]) == 32
    assert _losses(pair)[0] == pytest.approx(_losses(whole)[0], rel=1e-12), "before any update: the same numbers"
    np.testing.assert_allclose(_losses(whole), _losses(pair), rtol=2e-3)


def test_natural_sampling_with_slots_that_have_no_clip(train: Run) -> None:
    # 119 training clips or so in batches of 32: the last step leaves some of 8 slots with one clip less or none.
    settings = ("data.sampling=natural", "data.epoch_clips=67", "train.epochs=2", "data.workers=0")
    runs = [train(ALONE, "one", *settings), train(torchrun(4), "four", *settings)]
    for run in runs:
        assert verify_run(run).faults == []
        assert verify_run(run).consumed == 2 * 67
    np.testing.assert_allclose(_losses(runs[0]), _losses(runs[1]), rtol=2e-3)


def test_processes_that_do_not_divide_the_slots_are_refused(config: Path, tmp_path: Path) -> None:
    code, output = finish(start(torchrun(3), config, tmp_path / "run"))
    assert code != 0
    lines = [line for line in output.splitlines() if line.startswith("kws:")]
    assert lines == [line for line in lines if "1, 2, 4, 8 processes, not 3" in line]
    assert len(lines) == 1, output
    assert not (tmp_path / "run").exists()
