from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli
from kws.data import index
from kws.run import lock
from tests.conftest import tiny_settings

pytestmark = pytest.mark.xdist_group("preview")  # what they share is made once

Check = Callable[..., dict[str, object]]


@pytest.fixture
def config(tones: index.Index, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_settings(tones.root, epochs=1, global_batch=32))
    return path


@pytest.fixture
def check(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """check(*settings) -> what --check --json says of tmp_path/run, which it leaves as it is."""

    def run(*settings: str, code: int = 0) -> dict[str, object]:
        folder = tmp_path / "run"
        before = listing(folder)
        words = [word for setting in settings for word in ("--set", setting)]
        capsys.readouterr()
        assert cli.main(["train", str(config), "--run", str(folder), "--check", "--json", *words]) == code
        assert listing(folder) == before
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    return run


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below with size and time of change."""
    found = [folder, *folder.rglob("*")] if folder.exists() else []
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def trained(config: Path, tmp_path: Path, kws: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    done = kws("train", config, "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_a_new_folder_would_start_and_is_not_made(check: Check, tmp_path: Path) -> None:
    found = check()
    assert (found["state"], found["step"], found["why"]) == ("new", 0, None)
    assert not (tmp_path / "run").exists()
    assert (found["network"], found["slots"], found["world_sizes"]) == ("tc_resnet8", 4, [1, 2, 4])
    assert found["steps"] == found["steps_per_epoch"]


def test_an_old_name_in_the_settings_is_noted(check: Check) -> None:
    (note,) = check("frontend.augment=seed")["notes"]  # type: ignore[misc]
    assert '"classic"' in note


def test_a_trained_folder_is_finished_and_goes_on_where_epochs_are_added(check: Check, trained: Path) -> None:
    steps = check()["steps"]
    assert (check()["state"], check()["step"]) == ("finished", steps)
    more = check("train.epochs=3", "train.allow_change=epochs")
    assert (more["state"], more["step"], more["why"]) == ("resume", steps, None)


def test_a_damaged_checkpoint_is_noted_and_the_one_before_it_taken(check: Check, trained: Path) -> None:
    (evaluated,) = trained.glob("checkpoints/step-*-evaluated")
    (evaluated / "state.json").write_text("{}")
    found = check()
    assert found["state"] == "resume"  # the epoch's evaluation is still to do
    assert "broken checkpoint" in str(found["notes"])


def test_other_settings_would_be_refused_with_the_reason(check: Check, trained: Path) -> None:
    found = check("model.name=res8", code=cli.USAGE)
    assert found["state"] == "refused"
    assert "model.name: 'tc_resnet8' there, 'res8' now" in str(found["why"])


def test_a_folder_in_use_would_be_refused(check: Check, trained: Path) -> None:
    held = lock.acquire(trained)
    found = check(code=cli.USAGE)
    held.release()
    assert found["state"] == "refused"
    assert f"in use by process {os.getpid()}" in str(found["why"])
    assert check()["state"] == "finished"


def memory(found: dict[str, object]) -> dict[str, int]:
    parts = found["memory"]
    assert isinstance(parts, dict)
    return parts


def test_memory_follows_the_settings(check: Check) -> None:
    plain = memory(check())
    assert plain["optimizer"] == 2 * plain["gradients"]  # AdamW
    assert plain["averaged"] == 0
    assert plain["total"] == sum(size for name, size in plain.items() if name != "total")
    other = memory(check("train.optimizer=sgd", "train.ema=0.9", "train.micro_batch=16"))
    assert other["optimizer"] == other["gradients"] == other["averaged"] == plain["gradients"]
    assert other["activations"] == pytest.approx(2 * plain["activations"], rel=0.01)
    # Four slots in one process: the flat buffer and three partial sums.
    assert memory(check("train.reduction=exact"))["gradients"] == 4 * plain["gradients"]


def test_memory_under_zero(config: Path, tmp_path: Path, kws: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    # In a process of its own: accelerate keeps that it met DeepSpeed.
    words = ("train", config, "--run", tmp_path / "run", "--check", "--json", "--set", "train.zero=1")
    parts = json.loads(kws(*words).stdout)["memory"]
    assert parts["optimizer"] == 3 * parts["gradients"]  # alone: Adam's two, and the weights


def test_people_get_a_table(config: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> str:
        cli.main(["train", str(config), "--run", str(trained), "--check", *words])
        return " ".join(capsys.readouterr().out.split())

    capsys.readouterr()
    table = shown()
    for part in ("classes 3: ", "32 clips: 4 slots of 8", "may be 1, 2, 4", "activations"):
        assert part in table
    assert "would do nothing: finished, at step" in table
    assert "would go on from step" in shown("--set", "train.epochs=2", "--set", "train.allow_change=epochs")
    assert "would be refused:" in shown("--set", "train.seed=1")
    shutil.rmtree(trained)
    assert "would start" in shown()
