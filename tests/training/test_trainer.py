"""The loop in one process: a run stopped at any step and resumed ends with the bits of one that was left alone."""

from __future__ import annotations

import gzip
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kws.config import Config, DataConfig, FrontEndConfig, ModelConfig, TrainConfig
from kws.data.index import Index
from kws.distributed import process_group
from kws.distributed.signals import STOP_SIGNALS
from kws.errors import UsageError
from kws.run.step_parts import LABELS
from kws.training.initial import refuse_other_plan
from kws.training.step import PlannedStep, Votes
from kws.training.trainer import FINISHED, PREEMPTED, Trainer

EPOCHS, GLOBAL_BATCH = 2, 32


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


class StoppedTrainer(Trainer):
    """Is asked to stop in the step of that number; -1: never."""

    stop_at = -1

    def train_step(self, planned: PlannedStep) -> Votes:
        if planned.step == self.stop_at:
            self.attempt.stop.request(None)
        return super().train_step(planned)


def config_of(corpus: Index, **train: object) -> Config:
    settings: dict[str, object] = {
        "epochs": EPOCHS, "global_batch": GLOBAL_BATCH, "micro_batch": 16, "device": "cpu", "threads": 1, "ema": 0.9,
    }  # fmt: skip
    return Config(
        data=DataConfig(shards=str(corpus.root), workers=0, ledger=True),
        frontend=FrontEndConfig(features="mel32"),
        model=ModelConfig(name="tc_resnet8"),
        train=TrainConfig(**(settings | train)),  # type: ignore[arg-type]
    )


def run(config: Config, folder: Path, stop_at: int = -1) -> tuple[int, StoppedTrainer]:
    with process_group.start(config.train) as ranks:
        trainer = StoppedTrainer(config, folder, ranks)
        trainer.stop_at = stop_at
        return trainer.run(), trainer


def last_weights(folder: Path) -> dict[str, bytes]:
    last = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    return {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}


def events(folder: Path, kind: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


@pytest.fixture(scope="module")
def whole(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, trainer = run(config_of(tones), folder)
    assert code == FINISHED
    assert trainer.state.step == trainer.training_set.total_steps
    return folder


def steps_per_epoch(corpus: Index) -> int:
    return -(-len(corpus.split("train")) // GLOBAL_BATCH)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("first step", marks=pytest.mark.slow),
        pytest.param("last step of an epoch", marks=pytest.mark.slow),
        "in the second epoch",
        pytest.param("very last step", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_stopped_and_resumed_equals_uninterrupted(whole: Path, tones: Index, tmp_path: Path, place: str) -> None:
    length = steps_per_epoch(tones)
    stop_at = {
        "first step": 0, "last step of an epoch": length - 1, "in the second epoch": length + 1,
        "very last step": EPOCHS * length - 1,
    }[place]  # fmt: skip
    folder = tmp_path / "run"
    code, trainer = run(config_of(tones), folder, stop_at)
    assert (code, trainer.state.step) == (PREEMPTED, stop_at + 1)
    assert trainer.state.evaluation_pending is place.startswith(("last", "very last"))
    assert json.loads((folder / "status.json").read_text())["state"] == "preempted"
    assert run(config_of(tones), folder)[0] == FINISHED
    assert last_weights(folder) == last_weights(whole)
    assert [row["epoch"] for row in events(folder, "epoch")] == list(range(EPOCHS))  # each epoch evaluated once
    same = ("epoch", "step", "lr", "valid_loss", "ema_valid_accuracy")
    for mine, wanted in zip(events(folder, "epoch"), events(whole, "epoch"), strict=True):
        assert {name: mine[name] for name in same} == {name: wanted[name] for name in same}


def test_a_finished_run_is_left_as_it_is(whole: Path, tones: Index) -> None:
    files = {path: path.read_bytes() for path in (whole / "checkpoints").rglob("*") if path.is_file()}
    code, trainer = run(config_of(tones), whole)
    assert code == FINISHED
    assert trainer.done
    assert files == {path: path.read_bytes() for path in (whole / "checkpoints").rglob("*") if path.is_file()}
    assert len(events(whole, "start")) == 1


def test_stop_after_ends_the_run_and_a_resume_finds_it_finished(tones: Index, tmp_path: Path) -> None:
    config = config_of(tones, epochs=30, stop_after=1, lr=1e-9, ema=0.0, schedule="constant")
    code, trainer = run(config, tmp_path / "run")
    assert code == FINISHED
    assert trainer.state.step < trainer.training_set.total_steps
    assert run(config, tmp_path / "run")[0] == FINISHED


def test_another_plan_than_the_runs_is_refused(tones: Index, tmp_path: Path) -> None:
    with process_group.start(config_of(tones).train) as ranks:
        trainer = Trainer(config_of(tones), tmp_path, ranks)
    trainer.state.planned = trainer.training_set.plan(0).digest
    refuse_other_plan(tmp_path, trainer.training_set, trainer.state)
    trainer.state.planned = "00000000"
    with pytest.raises(UsageError, match=r"numpy .*run\.json.*--run"):
        refuse_other_plan(tmp_path, trainer.training_set, trainer.state)


# --- where the time goes ----------------------------------------------------------------------------------------------


def names_in(trace: Path) -> set[str]:
    with gzip.open(trace, "rt", encoding="utf-8") as file:
        return {event["name"] for event in json.load(file)["traceEvents"]}


def summary_of(trace: Path) -> dict[str, Any]:
    stem = trace.name.removesuffix(".json.gz")
    assert trace.with_name(f"{stem}.txt").read_text().startswith("steps ")
    return dict(json.loads(trace.with_name(f"{stem}.summary.json").read_text()))


def test_a_profile_that_a_stop_interrupts_is_written_and_the_resumed_run_writes_the_rest(
    tones: Index, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    code, _ = run(config_of(tones, profile="1:4"), folder, stop_at=2)
    assert code == PREEMPTED
    (trace,) = folder.glob("profile/*.json.gz")
    assert trace.name == "steps-1-3.rank0.json.gz"
    wanted = {"step 1", "step 2", *(LABELS[part] for part in ("data", "front_end", "forward", "backward", "update"))}
    assert wanted <= names_in(trace)
    assert "step 3" not in names_in(trace)

    code, _ = run(config_of(tones, profile="1:4"), folder)
    assert code == FINISHED
    assert "train.profile=1:4" in capsys.readouterr().out
    rest = folder / "profile" / "steps-3-4.rank0.json.gz"
    found = summary_of(rest)
    assert (found["first"], found["last"], found["rank"], found["device"]) == (3, 3, 0, "cpu")
    assert sum(times["host"] for times in found["parts"].values()) == pytest.approx(found["seconds"])
    assert {"forward", "backward", "front_end"} <= found["parts"].keys()
    assert found["front_end_device_share"] is None
    assert last_weights(folder) == last_weights(whole), "a profile changes no bit"


def test_the_log_says_where_the_time_went(whole: Path) -> None:
    steps = events(whole, "step")
    for row in steps:
        parts = row["parts"]
        assert isinstance(parts, dict)
        assert {"data", "front_end", "forward", "backward", "update"} <= parts.keys()
    for row in events(whole, "epoch"):
        assert isinstance(row["parts"], dict)
        assert {"save", "evaluation"} <= row["parts"].keys()
    times = [row["time"] for kind in ("start", "end") for row in events(whole, kind)]
    assert isinstance(times[0], float)
    assert isinstance(times[1], float)
    total = sum(sum(row["parts"].values()) for kind in ("step", "epoch", "end") for row in events(whole, kind))  # type: ignore[attr-defined]
    assert 0.0 < total <= times[1] - times[0]
