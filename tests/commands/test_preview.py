"""`kws train --check`: what it says of a run folder in every state, and that it changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli
from kws.commands import preview
from kws.data import index
from kws.run import lock
from kws.training import time_estimate
from tests.conftest import tiny_settings, train_here

pytestmark = pytest.mark.xdist_group("preview")  # the shared fixtures are made once

Check = Callable[..., dict[str, object]]


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_estimate, "ENOUGH_S", 0.0)
    monkeypatch.setattr(time_estimate, "AT_MOST_S", 1e-9)  # as if a slot took long: a few clips are timed


@pytest.fixture
def config(tones: index.Index, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    settings = tiny_settings(tones.root, epochs=1, global_batch=32)
    path.write_text(settings.replace("[frontend]", '[frontend]\naugment = "none"'))  # compiling it takes seconds
    return path


@pytest.fixture
def check(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """check(*settings) -> the output of --check --json for tmp_path/run, which must not change."""

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
    """Size and modification time of every file below the folder."""
    found = [folder, *folder.rglob("*")] if folder.exists() else []
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """A finished run in tmp_path/run."""
    return shutil.copytree(trained_once, tmp_path / "run")


@pytest.fixture(scope="module")
def trained_once(tones: index.Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("preview") / "run"
    assert train_here(run, f"data.shards={tones.root}", "frontend.augment=none")[0] == 0
    return run


def test_a_new_run_would_start_and_its_folder_is_not_created(check: Check, tmp_path: Path) -> None:
    found = check()
    assert (found["state"], found["step"], found["why"]) == ("new", 0, None)
    assert not (tmp_path / "run").exists()
    assert (found["network"], found["slots"], found["world_sizes"]) == ("tc_resnet8", 4, [1, 2, 4])
    assert found["steps"] == found["steps_per_epoch"]
    assert "train.epochs" in found["step_notes"][0]


def test_an_old_name_in_the_settings_is_noted(check: Check) -> None:
    (note,) = check("frontend.augment=seed")["notes"]  # type: ignore[misc]
    assert '"classic"' in note


def test_a_trained_run_is_finished_and_would_resume_with_more_epochs(check: Check, trained: Path) -> None:
    steps = check()["steps"]
    assert (check()["state"], check()["step"]) == ("finished", steps)
    more = check("train.epochs=3", "train.allow_change=epochs")
    assert (more["state"], more["step"], more["why"]) == ("resume", steps, None)


def test_a_damaged_checkpoint_is_noted_and_the_previous_one_used(check: Check, trained: Path) -> None:
    (evaluated,) = trained.glob("checkpoints/step-*-evaluated")
    (evaluated / "state.json").write_text("{}")
    found = check()
    assert found["state"] == "resume"  # the epoch's evaluation is still to do
    assert evaluated.name in str(found["notes"])


def test_changed_settings_would_be_refused_with_the_reason(check: Check, trained: Path) -> None:
    found = check("model.name=res8", code=cli.USAGE)
    assert found["state"] == "refused"
    assert "model.name" in str(found["why"])
    assert "res8" in str(found["why"])


def test_a_folder_in_use_would_be_refused(check: Check, trained: Path) -> None:
    held = lock.acquire(trained)
    found = check(code=cli.USAGE)
    held.release()
    assert found["state"] == "refused"
    assert str(os.getpid()) in str(found["why"])
    assert check()["state"] == "finished"


# --- what a start would refuse --------------------------------------------------------------------------------


def test_initial_weights_are_tried(check: Check, trained_once: Path, tmp_path: Path) -> None:
    found = check("train.init=nowhere.safetensors", code=cli.USAGE)
    assert (found["state"], found["seconds"]) == ("refused", None)
    assert "nowhere.safetensors" in str(found["why"])
    assert "no weight" in str(check(f"train.init={trained_once}", "model.name=res8", code=cli.USAGE)["why"])
    found = check(f"train.init={trained_once}")
    assert found["state"] == "new"
    assert str(trained_once) in str(found["notes"])


def test_teachers_are_shown_with_their_accuracy_and_memory(check: Check, trained_once: Path) -> None:
    found = check(f"train.teacher={trained_once}")
    (teacher,) = found["teachers"]  # type: ignore[misc]
    state = json.loads(next(trained_once.glob("checkpoints/step-*-evaluated/state.json")).read_text())
    assert (teacher["network"], teacher["valid_accuracy"]) == ("tc_resnet8", state["best_accuracy"])
    assert teacher["parameters"] == found["parameters"]
    assert found["memory"]["teachers"] > 4 * teacher["parameters"]  # type: ignore[index]
    assert preview.teacher_lines(found)[0].startswith(str(trained_once))


@pytest.mark.slow
def test_missing_and_short_shards_are_named(check: Check, tones: index.Index, tmp_path: Path) -> None:
    corpus = shutil.copytree(tones.root, tmp_path / "corpus")
    missing, short = sorted((corpus / "train").glob("*.tar"))[:2]
    missing.unlink()
    found = check(f"data.shards={corpus}", code=cli.USAGE)
    assert str(missing) in str(found["why"])
    shutil.copyfile(tones.root / "train" / missing.name, missing)
    short.write_bytes(short.read_bytes()[:-512])
    assert str(short) in str(check(f"data.shards={corpus}", code=cli.USAGE)["why"])
    assert check(f"data.shards={corpus}", "data.on_bad=skip")["state"] == "new"


@pytest.mark.slow
def test_a_small_cache_and_all_other_reasons_are_named_at_once(check: Check, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = check(f"data.cache_dir={cache}", "data.cache_gb=0.0001", "train.init=nowhere", code=cli.USAGE)
    assert "data.cache_gb" in str(found["why"])
    assert "train.init" in str(found["why"])
    assert check(f"data.cache_dir={cache}")["state"] == "new"
    assert not cache.exists()


def test_a_run_folder_that_cannot_be_made_is_refused(check: Check, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    assert "--run" in str(check(code=cli.USAGE)["why"])


@pytest.mark.slow
def test_compiling_without_a_compiler_is_refused(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for more in (["--check"], []):
        words = ["train", str(config), "--run", str(tmp_path / "run"), "--set", "train.compile=true", *more]
        assert cli.main(words) == cli.USAGE
        assert "no-such-compiler" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# --- memory and time ------------------------------------------------------------------------------------------


def test_the_time_is_estimated(check: Check, trained: Path) -> None:
    assert check()["seconds"] is None, "it is finished"
    shutil.rmtree(trained)
    one, more = (check(f"train.epochs={epochs}")["seconds"] for epochs in (1, 1000))
    assert isinstance(one, dict)
    assert isinstance(more, dict)
    assert 0.0 < one["step"] < one["epoch"] == pytest.approx(one["total"])
    assert more["total"] == pytest.approx(1000 * more["epoch"])


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


@pytest.mark.slow
def test_memory_under_zero(config: Path, tmp_path: Path, kws: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    # In its own process, because accelerate keeps DeepSpeed in global state.
    words = ("train", config, "--run", tmp_path / "run", "--check", "--json", "--set", "train.zero=1")
    parts = json.loads(kws(*words).stdout)["memory"]
    assert parts["optimizer"] == 3 * parts["gradients"]  # with one process: the two of Adam, and the weights


def test_the_table_shows_slots_memory_and_what_would_happen(
    config: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*words: str) -> str:
        cli.main(["train", str(config), "--run", str(trained), "--check", *words])
        return " ".join(capsys.readouterr().out.split())

    capsys.readouterr()
    table = shown()
    for part in ("classes 3: ", "32 clips: 4 slots of 8", "possible: 1, 2, 4", "activations"):
        assert part in table
    assert "would do nothing: finished at step" in table
    assert "would resume from step" in shown("--set", "train.epochs=2", "--set", "train.allow_change=epochs")
    assert "would be refused:" in shown("--set", "train.seed=1")
    shutil.rmtree(trained)
    assert "would start" in shown()
    assert "an estimate for this machine" in shown()
