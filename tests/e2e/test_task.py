"""A custom task from training to report: its file may be deleted after training, but may not be changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kws import cli
from kws.audio import codec
from kws.data.index import Index
from kws.data.reader import Reader
from kws.errors import UsageError
from tests.conftest import train_here

OWN = """
classes = ["silence", "high", "unknown", "mid"]
others = "unknown"
corpus = "noisy"
unknown = { share = 0.5 }
silence = { share = 0.3, of = "wanted", kind = "noise" }
clips = { train = 1, valid = 2, test = 3 }
"""
pytestmark = pytest.mark.xdist_group("own task")  # the run is made once


def settings_of(noisy: Index, task: Path) -> list[str]:
    return [
        f"data.shards={noisy.root}", f"data.task={task}", "data.clip_seconds=0.1", "data.ledger=true",
        "frontend.features=logmel40", "frontend.augment=none", "train.epochs=6",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(noisy: Index, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run and its task file, and the output of the training."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "own.toml").write_text(OWN)
    code, output = train_here(folder / "run", *settings_of(noisy, folder / "own.toml"))
    assert code == 0, output
    return folder, output


def test_training_first_says_what_the_task_does_with_the_corpus(trained: tuple[Path, str]) -> None:
    folder, output = trained
    lines = output.splitlines()
    (line,) = [line for line in lines[:5] if line.startswith("own: 4 classes")]
    assert "1 word is unknown" in line
    assert "noise" in line
    assert any("(noisy)" in line for line in lines[:5])
    facts = json.loads((folder / "run" / "run.json").read_text())
    assert facts["task"]["classes"] == ["silence", "high", "unknown", "mid"]
    assert line in facts["task_notes"]


@pytest.mark.slow
def test_commands_on_a_run_do_not_need_the_task_file(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    (folder / "own.toml").rename(folder / "gone.toml")
    try:
        for split in ("train", "valid", "test"):
            assert cli.main(["evaluate", str(folder / "run"), "--split", split, "--json"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert (found["task"], found["classes"]) == ("own", ["silence", "high", "unknown", "mid"])
            silent, high, unknown, mid = (sum(row) for row in found["confusion"])
            assert (silent, unknown) == (-(-3 * (high + mid) // 10), -(-(high + mid) // 2))
            assert found["accuracy"] > 0.5
        for command in ("verify", "compare", "report"):
            assert cli.main([command, str(folder / "run")]) == 0
        assert "matches the plan" in capsys.readouterr().out
        assert "The consumed draws match the plan." in (folder / "run" / "report.html").read_text()
    finally:
        (folder / "gone.toml").rename(folder / "own.toml")


def test_a_folder_of_a_word_outside_the_classes_is_unknown_in_truth(
    trained: tuple[Path, str], noisy: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = trained
    reader, names = Reader(noisy, "test"), {"low": "unknown", "high": "high", "my": None}
    for word in names:
        (tmp_path / word).mkdir()
        (tmp_path / word / "a.wav").write_bytes(codec.wav_bytes(reader.read(0)[:1600]))
    assert cli.main(["predict", str(folder / "run"), str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {Path(row["path"]).parent.name: row["truth"] for row in rows} == names


def test_a_deleted_task_file_is_accepted_and_a_changed_one_is_refused(
    trained: tuple[Path, str], noisy: Index, tmp_path: Path
) -> None:
    folder, _ = trained
    run, moved = shutil.copytree(folder / "run", tmp_path / "run"), tmp_path / "own.toml"
    moved.write_text(OWN)
    assert "already finished" in train_here(run, *settings_of(noisy, moved))[1]
    moved.unlink()
    assert "already finished" in train_here(run, *settings_of(noisy, moved))[1]
    moved.write_text(OWN.replace("share = 0.5", "share = 0.75"))
    with pytest.raises(UsageError, match=r"0\.5.*0\.75"):
        train_here(run, *settings_of(noisy, moved))
