"""The README's commands on real recordings, from the archive to a prediction, on two processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REAL, ROOT, require

ARCHIVE = REAL / "speech_commands_mini.tar.gz"
Command = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.multiproc, pytest.mark.xdist_group("real path")]  # one run for all of them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("real", ARCHIVE.exists(), f"the real clips are not at {REAL} (set KWS_REAL_DATA)")
    return tmp_path_factory.mktemp("real-path")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run of configs/quick.toml for two epochs, as the README starts it."""
    packed = [sys.executable, "-m", "kws", "pack", str(ARCHIVE), str(folder / "shards")]
    subprocess.run([*packed, "--recipe", str(ROOT / "shards" / "speech_commands_mini.toml")], check=True, timeout=120)
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / "cpu2.yaml")]
    train = ["-m", "kws", "train", str(ROOT / "configs" / "quick.toml"), "--run", str(folder / "run")]
    sets = ["--set", f"data.shards={folder / 'shards'}", "--set", "train.epochs=2", "--set", "data.ledger=true"]
    done = subprocess.run([*start, *train, *sets], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes" in done.stdout
    return folder / "run"


def test_the_shards_are_what_the_recipe_says(run: Path, folder: Path, kws: Command) -> None:
    shown = json.loads(kws("inspect", folder / "shards", "--json").stdout)
    assert {name: split["clips"] for name, split in shown["splits"].items()} == {
        "train": 576, "valid": 144, "test": 144, "noise": 6,
    }  # fmt: skip
    assert len(shown["words"]) == 24
    assert all(counts == {"train": 24, "valid": 6, "test": 6} for counts in shown["words"].values())
    assert kws("verify", folder / "shards").returncode == 0


def test_two_processes_consumed_the_plan(run: Path, kws: Command) -> None:
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    assert len(list((run / "ledger").iterdir())) == 2
    verified = kws("verify", run)
    assert verified.returncode == 0
    assert "1536 draws counted, 0 done again; exactly the plan" in verified.stdout  # 2 epochs x 3 steps x 256


def test_evaluation_counts_every_clip_once(run: Path, kws: Command) -> None:
    assert kws("evaluate", run).returncode == 0
    result = json.loads((run / "eval" / "test.json").read_text())
    assert result["n"] == 144
    assert sum(map(sum, result["confusion"])) == 144
    assert [row["support"] for row in result["per_class"]] == [6] * 24
    low, high = result["interval95"]
    assert low < result["accuracy"] < high
    assert (run / "eval" / "test.png").stat().st_size > 10_000
    assert kws("report", run).returncode == 0


def test_prediction_shows_the_truth_beside_it(run: Path, folder: Path, kws: Command) -> None:
    with tarfile.open(ARCHIVE) as archive:
        names = [name for name in archive.getnames() if "/right/" in name or "/bird/" in name][:10]
        archive.extractall(folder / "own", [archive.getmember(name) for name in names], filter="data")
    rows = [json.loads(line) for line in kws("predict", run, folder / "own", "--json").stdout.splitlines()]
    assert len(rows) == 10
    for row in rows:
        assert row["truth"] == Path(row["path"]).parent.name
        assert 0.0 <= row["words"][0]["probability"] <= 1.0


def test_the_same_command_again_says_it_is_finished(run: Path, kws: Command, folder: Path) -> None:
    sets = ("--set", f"data.shards={folder / 'shards'}", "--set", "train.epochs=2", "--set", "data.ledger=true")
    again = kws("train", ROOT / "configs" / "quick.toml", "--run", run, *sets)  # one process now
    assert again.returncode == 0, again.stderr
    assert "already finished" in again.stdout
