"""Settings of the optimisation, each in a run of its own: what they change, and that a resumed run keeps them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kws.config import TrainConfig
from kws.data.index import Index
from kws.errors import UsageError
from kws.run.checkpoint import Checkpoints
from kws.training.optim import Plateau
from tests.conftest import train_here
from tests.multiproc.launching import SETTINGS, events, finish, start_ranks, status


def train(corpus: Index, run: Path, *settings: str) -> Path:
    """A tiny run of this process, to its end. Returns the run folder."""
    train_and_print(corpus, run, *settings)
    return run


def train_and_print(corpus: Index, run: Path, *settings: str) -> str:
    """The same; returns what the run printed."""
    code, output = train_here(run, f"data.shards={corpus.root}", *settings)
    assert code == 0, output
    return output


def last_model(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoints(run).find("last").model()


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_lower_precision_learns_and_keeps_float32_weights(tones: Index, tmp_path: Path, precision: str) -> None:
    settings = ("train.epochs=3", f"train.precision={precision}", "train.channels_last=true")
    run = train(tones, tmp_path / "run", *settings)
    losses = [row["train_loss"] for row in events(run, "epoch")]
    assert losses[-1] < losses[0]
    dtypes = {value.dtype for name, value in last_model(run).items() if "num_batches" not in name}
    assert dtypes == {torch.float32}
    assert bool(Checkpoints(run).find("last").optimizer()["scaler"]) == (precision == "fp16")


@pytest.mark.slow
def test_a_new_run_starts_from_the_averaged_weights_of_another(tones: Index, tmp_path: Path) -> None:
    first = train(tones, tmp_path / "first", "train.epochs=2", "train.ema=0.9")
    average = load_file(Checkpoints(first).find("best_accuracy").path / "ema.safetensors")
    still = ("train.lr=1e-12", "train.weight_decay=0", f"train.init={first}")
    model = last_model(train(tones, tmp_path / "second", *still))
    for name, value in average.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(model[name], value, atol=1e-6, rtol=1e-6)
    # The same number of classes, but in another order: the weights of the last layer do not fit.
    task = tmp_path / "others.toml"
    task.write_text('classes = ["mid", "high", "low"]\nothers = "drop"\n')
    output = train_and_print(tones, tmp_path / "third", *still, f"data.task={task}")
    (line,) = [line for line in output.splitlines() if line.startswith(f"{first}: ")]
    assert "classifier" in line or "weight" in line
    with pytest.raises(UsageError, match=r"train\.init: nowhere\.safetensors"):
        train(tones, tmp_path / "fourth", "train.init=nowhere.safetensors")


@pytest.mark.slow
def test_freeze_epochs_trains_the_head_alone_first(tones: Index, tmp_path: Path) -> None:
    settings = ("train.epochs=2", "train.freeze_epochs=1", "train.keep=9", "train.weight_decay=0.1")
    run = train(tones, tmp_path / "run", *settings)
    half = events(run, "epoch")[0]["step"]
    models = [Checkpoints(run).find(f"step-{step:08d}").model() for step in (half, 2 * half)]
    start = last_model(train(tones, tmp_path / "start", "train.lr=1e-12", "train.weight_decay=0"))
    weights = [name for name in start if name.endswith("weight") and start[name].ndim > 1]
    changed = [{name for name in weights if (model[name] - start[name]).abs().max() > 1e-6} for model in models]
    assert len(changed[0]) == 1  # the classifier
    assert changed[1] == set(weights)
    with pytest.raises(UsageError, match="freeze_epochs"):
        train(tones, tmp_path / "other", "train.epochs=1", "train.freeze_epochs=1")


def test_a_setting_in_allow_change_may_change_in_a_run(tones: Index, tmp_path: Path) -> None:
    run = train(tones, tmp_path / "run", "train.epochs=1")
    with pytest.raises(UsageError, match=r"train\.allow_change=epochs"):
        train(tones, run, "train.epochs=2")
    with pytest.raises(UsageError, match=r"train\.deterministic: False there, True now .*allow_change=deterministic"):
        train(tones, run, "train.deterministic=true")
    changed = ("train.epochs=2", "train.deterministic=true", "train.allow_change=epochs,deterministic")
    train(tones, run, *changed)
    assert len(events(run, "epoch")) == 2


@pytest.mark.slow
def test_deterministic_changes_no_bit_on_a_cpu(tones: Index, tmp_path: Path) -> None:
    plain = last_model(train(tones, tmp_path / "plain", "train.epochs=1"))
    other = last_model(train(tones, tmp_path / "other", "train.epochs=1", "train.deterministic=true"))
    assert all(torch.equal(value, other[name]) for name, value in plain.items())


@pytest.mark.slow
def test_a_plateau_lowers_the_learning_rate_of_later_epochs(tones: Index, tmp_path: Path) -> None:
    settings = ("train.epochs=24", "train.schedule=plateau", "train.patience=1", "train.factor=0.5", "train.lr=1e-9",
                "train.warmup_epochs=0")  # fmt: skip
    run = train(tones, tmp_path / "run", *settings)
    plateau, expected = Plateau(), []
    for row in events(run, "epoch"):
        expected.append(1e-9 * plateau.scale)
        plateau.record_loss(row["valid_loss"], TrainConfig(patience=1, factor=0.5))
    assert [row["lr"] for row in events(run, "epoch")] == pytest.approx(expected)
    assert Checkpoints(run).find("last").state["plateau"] == dataclasses.asdict(plateau)
    assert plateau.scale < 1.0, "the loss is constant at so low a learning rate"


# --- on two ranks ---------------------------------------------------------------------------------------------


@pytest.fixture
def config(tones: Index, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(SETTINGS.replace("[data]", f'[data]\nshards = "{tones.root}"'))
    return path


def fail_on_two_ranks(config: Path, run: Path, *settings: str) -> str:
    """Output of a run that must end with a usage error."""
    outcomes = [finish(rank) for rank in start_ranks(2, config, run, *settings, "data.workers=0")]
    assert all(code != 0 for code, _ in outcomes)
    assert status(run)["code"] == 2
    return "".join(output for _, output in outcomes)


@pytest.mark.slow
@pytest.mark.multiproc
def test_a_loss_of_nan_names_step_slots_and_draws_of_all_ranks(tones: Index, config: Path, tmp_path: Path) -> None:
    weights = last_model(train(tones, tmp_path / "first"))
    broken = {name: value * float("nan") for name, value in weights.items() if value.is_floating_point()}
    save_file(broken, tmp_path / "nan.safetensors")
    output = fail_on_two_ranks(config, tmp_path / "run", f"train.init={tmp_path}/nan.safetensors")
    assert "step 0" in output
    assert "slot 0, draws 0 to 3" in output  # of both ranks
    assert "slot 7, draws 28 to 31" in output


@pytest.mark.slow
@pytest.mark.multiproc
def test_weights_with_nan_are_never_saved(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("train.lr=1000", "train.optimizer=sgd", "train.warmup_epochs=0", "train.save_minutes=0")
    assert "train.lr" in fail_on_two_ranks(config, run, *settings, "train.epochs=9")
    for checkpoint in (run / "checkpoints").glob("step-*"):
        weights = load_file(checkpoint / "model.safetensors")
        assert [name for name, value in weights.items() if not value.isfinite().all()] == []
