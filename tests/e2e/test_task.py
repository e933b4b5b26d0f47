"""A task of one's own from training to a report, by the commands: its file may go, and may not change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli
from kws.audio import codec
from kws.data.index import Index
from kws.data.reader import Reader
from tests.conftest import tiny_settings

Command = Callable[..., subprocess.CompletedProcess[str]]
OWN = """
classes = ["silence", "high", "unknown", "mid"]
others = "unknown"
corpus = "noisy"
unknown = { share = 0.5 }
silence = { share = 0.3, of = "wanted", kind = "noise" }
clips = { train = 1, valid = 2, test = 3 }
"""
pytestmark = pytest.mark.xdist_group("own task")  # one run for all of them


@pytest.fixture(scope="module")
def trained(noisy: Index, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a finished run and its settings, and what it said."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "own.toml").write_text(OWN)
    settings = tiny_settings(noisy.root, 6, 32).replace(
        "[data]", f'[data]\ntask = "{folder / "own.toml"}"\nclip_seconds = 0.1\nledger = true'
    )
    (folder / "tiny.toml").write_text(settings.replace('"mel32"', '"logmel40"\naugment = "none"'))
    command = [sys.executable, "-m", "kws", "train", str(folder / "tiny.toml"), "--run", str(folder / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_what_became_of_the_words_is_said_first(trained: tuple[Path, str], kws: Command) -> None:
    folder, said = trained
    lines = said.splitlines()
    (line,) = [line for line in lines[:5] if line.startswith("own: 4 classes; 1 word is unknown (")]
    assert line.endswith(" windows of noise are silence")
    assert any(line.startswith("not the official corpus (noisy): ") for line in lines[:5])
    checked = kws("train", folder / "tiny.toml", "--check", "--run", folder / "other")
    assert "1 word is unknown" in " ".join(checked.stdout.split())
    facts = json.loads((folder / "run" / "run.json").read_text())
    assert facts["task"]["classes"] == ["silence", "high", "unknown", "mid"]
    assert line in facts["task_notes"]


def test_all_that_looks_at_a_run_needs_no_task_file(
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
        assert "exactly the plan" in capsys.readouterr().out
        assert "What was consumed is what was planned." in (folder / "run" / "report.html").read_text()
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


def test_a_task_file_may_go_and_a_changed_one_is_refused_with_the_difference(
    trained: tuple[Path, str], tmp_path: Path, kws: Command
) -> None:
    folder, _ = trained
    shutil.copytree(folder / "run", tmp_path / "run")
    moved = tmp_path / "own.toml"
    moved.write_text(OWN)
    again = ("train", folder / "tiny.toml", "--run", tmp_path / "run", "--set", f"data.task={moved}")
    assert "already finished" in kws(*again).stdout
    moved.unlink()
    assert "already finished" in kws(*again).stdout
    moved.write_text(OWN.replace("share = 0.5", "share = 0.75"))
    refused = kws(*again)
    assert refused.returncode == 2
    assert "task's unknown: {'share': 0.5} there, {'share': 0.75} now" in refused.stderr
    assert "Traceback" not in refused.stderr
