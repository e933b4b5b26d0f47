from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kws.errors import UsageError
from kws.run import curves
from tests.conftest import ROOT, require
from tests.run.events import START, write_run


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve in TensorBoard's files."""
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_tensorboard_has_all_curves(tmp_path: Path) -> None:
    write_run(tmp_path, 0, 4)
    found = points(tmp_path)
    assert found["train/loss"] == [(step, 1.5) for step in (1, 2, 3, 4)]
    last = {tag: values[-1] for tag, values in found.items()}
    assert last == {
        "train/loss": (4, 1.5), "train/accuracy": (4, 0.25), "train/lr": (4, pytest.approx(0.1)),
        "train/epoch_loss": (4, 1.25), "train/epoch_accuracy": (4, 0.5),
        "valid/loss": (4, 1.0), "valid/accuracy": (4, 0.75),
        "valid_averaged/loss": (4, 0.5), "valid_averaged/accuracy": (4, 0.875),
        "speed/clips_per_s": (4, 900.0), "speed/data_wait": (4, pytest.approx(0.05)),
        "speed/eval_seconds": (4, 3.0), "speed/save_seconds": (4, 0.5),
    }  # fmt: skip


def test_tensorboard_drops_the_steps_that_a_resumed_run_trains_again(tmp_path: Path) -> None:
    write_run(tmp_path, 0, 4, loss=1.0)
    began = int(time.time())
    while int(time.time()) == began:  # TensorBoard orders its files by the second
        time.sleep(0.01)
    write_run(tmp_path, 2, 4, loss=2.0)
    assert points(tmp_path)["train/loss"] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_shares_of_the_time_and_the_slowest_rank_are_curves() -> None:
    found = curves.scalars("step", {"parts": {"data": 1.0, "backward": 3.0}})
    assert found == {"time/data": 0.25, "time/backward": 0.75}
    found = curves.scalars("ranks", {"steps": 2, "seconds": {"data": [1.0, 2.0, 1.0], "all_reduce": [1.0, 0.0, 1.0]}})
    assert found == {"ranks/slowest_to_median": 2.0}


def test_events_without_numbers_have_no_curves() -> None:
    assert curves.scalars("start", START) == {}
    assert curves.scalars("end", {"state": "finished"}) == {}
    assert curves.scalars("save", {"checkpoint": "step-00000004", "seconds": 0.5}) == {"speed/save_seconds": 0.5}


# --- Weights & Biases -----------------------------------------------------------------------------------------


@pytest.fixture
def wandb_run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Writes a run with W&B in a process of its own, which W&B's threads and exit hooks need: (run, first, last)."""
    require("wandb", importlib.util.find_spec("wandb") is not None, "wandb is not installed")

    def run(folder: Path, first: int, last: int, **env: str) -> subprocess.CompletedProcess[str]:
        code = (
            "from pathlib import Path; from kws.config import *\n"
            "from kws.run import curves; from tests.run.events import write_run\n"
            "curves.WANDB_TIMEOUT_S = 100.0  # on a machine that others use too\n"
            f"write_run(Path({str(folder)!r}), {first}, {last}, Config(train=TrainConfig(wandb='words')), show=True)"
        )
        known = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        return subprocess.run(
            [sys.executable, "-c", code], env={**known, **env}, capture_output=True, text=True, timeout=240,
            cwd=ROOT, check=False,
        )  # fmt: skip

    return run


def records(data: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format: blocks of 32 KB; a part has crc32, length, kind (1 whole, 4 last)."""
    at, whole = 7, b""  # after W&B's own header
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def history(folder: Path) -> list[dict[str, Any]]:
    """The points in the files of the offline runs, oldest first."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


@pytest.mark.parametrize("attempts", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_wandb_gets_the_same_points_and_a_resumed_run_continues_its_run(
    tmp_path: Path, wandb_run: Callable[..., subprocess.CompletedProcess[str]], attempts: int
) -> None:
    for first, last in ((0, 4), (2, 4))[:attempts]:
        done = wandb_run(tmp_path / "run", first, last, WANDB_MODE="offline")
        assert done.returncode == 0, done.stderr
        assert "W&B: offline" in done.stdout
    own = (tmp_path / "run" / "wandb" / "id").read_text().strip()
    folders = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == attempts
    assert all(folder.name.endswith(own) for folder in folders)
    rows = history(tmp_path / "run")
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(step, 1.5) for step in (1, 2, 3, 4, 3, 4)[: 4 if attempts == 1 else 6]]
    assert [row["valid/accuracy"] for row in rows if "valid/accuracy" in row] == [0.75] * attempts


@pytest.mark.parametrize(
    "unreachable",
    [
        pytest.param({"WANDB_API_KEY": ""}, marks=pytest.mark.slow),
        # A minute until W&B's helper gives up.
        pytest.param({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}, marks=pytest.mark.slow),
    ],
)
def test_without_a_connection_to_wandb_the_points_stay_in_the_run_folder(
    tmp_path: Path, wandb_run: Callable[..., subprocess.CompletedProcess[str]], unreachable: dict[str, str]
) -> None:
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}  # no key of whoever runs the tests
    done = wandb_run(tmp_path / "run", 0, 4, **home, **unreachable)
    assert done.returncode == 0, done.stderr
    assert "wandb sync" in done.stdout
    assert len(history(tmp_path / "run")) == 6


def test_a_missing_wandb_package_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    curves.require_wandb("")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"train\.wandb: words.*pip install wandb"):
        curves.require_wandb("words")
