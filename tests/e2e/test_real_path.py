"""The commands of the README on real recordings, from the archive to a prediction, trained by two processes."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from kws import cli
from tests.conftest import REAL, ROOT, require
from tests.multiproc.launching import finish, start_ranks

ARCHIVE = REAL / "speech_commands_mini.tar.gz"
pytestmark = [pytest.mark.multiproc, pytest.mark.xdist_group("real path")]  # the run is made once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("real", ARCHIVE.exists(), f"the real clips are not at {REAL} (set KWS_REAL_DATA)")
    return tmp_path_factory.mktemp("real-path")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run of configs/quick.toml for two epochs on two ranks."""
    recipe = ROOT / "shards" / "speech_commands_mini.toml"
    assert cli.main(["pack", str(ARCHIVE), str(folder / "shards"), "--recipe", str(recipe)]) == cli.OK
    sets = [f"data.shards={folder / 'shards'}", "train.epochs=2", "data.ledger=true", "train.threads=1"]
    ranks = start_ranks(2, ROOT / "configs" / "quick.toml", folder / "run", *sets)
    outcomes = [finish(rank) for rank in ranks]
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    assert "2 processes" in outcomes[0][1]
    return folder / "run"


def kws(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs a command in this process; returns what it prints."""
    capsys.readouterr()
    assert cli.main(list(map(str, arguments))) == cli.OK
    return capsys.readouterr().out


def test_the_shards_match_the_recipe(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(kws(capsys, "inspect", folder / "shards", "--json"))
    assert {name: split["clips"] for name, split in shown["splits"].items()} == {
        "train": 576, "valid": 144, "test": 144, "noise": 6,
    }  # fmt: skip
    assert len(shown["words"]) == 24
    assert all(counts == {"train": 24, "valid": 6, "test": 6} for counts in shown["words"].values())
    kws(capsys, "verify", folder / "shards")


def test_two_processes_consumed_the_plan(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    assert len(list((run / "ledger").iterdir())) == 2
    verified = json.loads(kws(capsys, "verify", run, "--json"))
    assert verified == {"live": 2 * 3 * 256, "void": 0, "faults": []}  # 2 epochs of 3 steps of 256 clips


def test_evaluation_counts_every_clip_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kws(capsys, "evaluate", run)
    result = json.loads((run / "eval" / "test.json").read_text())
    assert result["n"] == 144
    assert sum(map(sum, result["confusion"])) == 144
    assert [row["support"] for row in result["per_class"]] == [6] * 24
    low, high = result["interval95"]
    assert low < result["accuracy"] < high
    assert (run / "eval" / "test.png").stat().st_size > 10_000
    kws(capsys, "report", run)


def test_prediction_shows_the_truth_of_word_folders(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(ARCHIVE) as archive:
        names = [name for name in archive.getnames() if "/right/" in name or "/bird/" in name][:10]
        archive.extractall(folder / "own", [archive.getmember(name) for name in names], filter="data")
    rows = [json.loads(line) for line in kws(capsys, "predict", run, folder / "own", "--json").splitlines()]
    assert len(rows) == 10
    for row in rows:
        assert row["truth"] == Path(row["path"]).parent.name
        assert 0.0 <= row["words"][0]["probability"] <= 1.0


def test_with_the_same_settings_the_run_is_finished(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", ROOT / "configs" / "quick.toml", "--run", run, "--set", f"data.shards={folder / 'shards'}"]
    words += ["--set", "train.epochs=2", "--set", "data.ledger=true", "--check", "--json"]
    assert json.loads(kws(capsys, *words))["state"] == "finished"
