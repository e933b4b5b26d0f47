"""Settings of the optimisation, each in a run of its own: what they change, and that a resumed run keeps them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kws.config import TrainConfig
from kws.run.checkpoint import Checkpoints
from kws.training.optim import Plateau
from tests.multiproc.launching import ALONE, finish, start, torchrun

pytestmark = pytest.mark.multiproc
Run = Callable[..., Path]


def rows(run: Path, event: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["event"] == event]


def test_a_run_that_gets_no_better_ends_before_its_last_epoch_and_is_finished(train: Run) -> None:
    settings = ("train.epochs=9", "train.lr=1e-12", "train.stop_after=2", "data.workers=0")
    run = train(ALONE, "run", *settings)
    assert len(rows(run, "epoch")) == 3, "the first is the best, and two more were no better"
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 15)
    again = train(ALONE, "run", *settings)
    assert len(rows(again, "epoch")) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_learns_and_keeps_its_weights_in_float32(train: Run, precision: str) -> None:
    settings = ("train.epochs=3", f"train.precision={precision}", "train.channels_last=true", "data.workers=0")
    run = train(ALONE, "run", *settings)
    losses = [row["train_loss"] for row in rows(run, "epoch")]
    assert losses[-1] < losses[0]
    checkpoint = Checkpoints(run).find("last")
    assert {value.dtype for name, value in checkpoint.model().items() if "num_batches" not in name} == {torch.float32}
    assert bool(checkpoint.optimizer()["scaler"]) == (precision == "fp16")


def test_a_plateau_lowers_the_rate_of_the_epochs_after_it(train: Run) -> None:
    settings = ("train.epochs=24", "train.schedule=plateau", "train.patience=1", "train.factor=0.5", "train.lr=1e-9",
                "train.warmup_epochs=0", "data.workers=0")  # fmt: skip
    run = train(ALONE, "run", *settings)
    plateau, wanted = Plateau(), []
    for row in rows(run, "epoch"):
        wanted.append(1e-9 * plateau.scale)
        plateau.record_loss(row["valid_loss"], TrainConfig(patience=1, factor=0.5))
    assert [row["lr"] for row in rows(run, "epoch")] == pytest.approx(wanted)
    assert Checkpoints(run).find("last").state["plateau"] == dataclasses.asdict(plateau)
    assert plateau.scale < 1.0, "once the running statistics have settled nothing gets better at so low a rate"


def test_a_new_run_starts_from_the_weights_of_another(train: Run, config: Path, tmp_path: Path) -> None:
    one = train(ALONE, "one", "train.epochs=2", "train.ema=0.9", "data.workers=0")
    average = load_file(Checkpoints(one).find("best_accuracy").path / "ema.safetensors")
    still = ("train.epochs=1", "train.lr=1e-12", "train.weight_decay=0", "data.workers=0")
    other = train(ALONE, "other", *still, f"train.init={one}")
    model = Checkpoints(other).find("last").model()
    for name, value in average.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(model[name], value, atol=1e-6, rtol=1e-6)
    task = tmp_path / "others.toml"
    task.write_text('classes = ["mid", "high", "low"]\nothers = "drop"\n')
    code, output = finish(start(ALONE, config, tmp_path / "turned", *still, f"train.init={one}", f"data.task={task}"))
    assert code == 0, output
    assert "; fresh: " in output, "as many classes, but others: their weights mean nothing here"
    process = start(ALONE, config, tmp_path / "third", "train.init=nowhere.safetensors")
    code, output = finish(process)
    assert code == 2
    assert "train.init: nowhere.safetensors cannot be read" in output


def test_a_loss_that_is_no_number_names_step_slots_and_draws(train: Run, config: Path, tmp_path: Path) -> None:
    weights = Checkpoints(train(ALONE, "one", "train.epochs=1", "data.workers=0")).find("last").model()
    save_file({name: value * float("nan") for name, value in weights.items() if value.is_floating_point()},
              tmp_path / "spoilt.safetensors")  # fmt: skip
    run = tmp_path / "run"
    code, output = finish(start(torchrun(2), config, run, f"train.init={tmp_path}/spoilt.safetensors"))
    assert code != 0
    # 8 slots of 4 draws, of both ranks.
    assert "step 0: the loss is nan (slot 0, draws 0 to 3, slot 1, draws 4 to 7, " in output
    assert "slot 7, draws 28 to 31); the checkpoint before it is kept" in output
    assert json.loads((run / "status.json").read_text())["code"] == 2


def test_weights_that_are_no_numbers_are_never_saved(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("train.lr=1000", "train.optimizer=sgd", "train.warmup_epochs=0", "train.save_minutes=0",
                "train.epochs=9", "data.workers=0")  # fmt: skip
    code, output = finish(start(torchrun(2), config, run, *settings))
    assert code != 0
    assert "the checkpoint before it is kept" in output
    assert json.loads((run / "status.json").read_text())["code"] == 2
    for checkpoint in (run / "checkpoints").glob("step-*"):
        weights = load_file(checkpoint / "model.safetensors")
        assert [name for name, value in weights.items() if not value.isfinite().all()] == []


def test_what_allow_change_names_goes_on_and_other_changes_do_not(train: Run, config: Path, tmp_path: Path) -> None:
    run = train(ALONE, "run", "train.epochs=1", "data.workers=0")
    code, output = finish(start(ALONE, config, run, "train.epochs=2", "data.workers=0"))
    assert code == 2
    assert "train.allow_change=epochs allows it" in output
    train(ALONE, "run", "train.epochs=2", "train.allow_change=epochs", "data.workers=0")
    assert len(rows(run, "epoch")) == 2


def test_a_numpy_that_would_draw_another_plan_is_refused(train: Run, config: Path, tmp_path: Path) -> None:
    run = train(ALONE, "run", "train.epochs=1", "data.workers=0")
    folder = Checkpoints(run).find("last").path
    state = json.loads((folder / "state.json").read_text())
    assert state["planned"]
    (folder / "state.json").write_text(json.dumps(state | {"planned": "0badc0de"}))
    sums = json.loads((folder / "manifest.json").read_text())
    sums["state.json"] = hashlib.sha256((folder / "state.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(sums))
    code, output = finish(start(ALONE, config, run, "train.epochs=1", "data.workers=0"))
    assert code == 2
    assert "draws another plan for epoch 1 than the run had; install the numpy that" in output
