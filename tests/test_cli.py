"""The `kws` command: help, exit codes, usage errors of one line, broken pipes, and what stays free of torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli
from kws.data import index
from kws.models import registry

Kws = Callable[..., subprocess.CompletedProcess[str]]
QUICK = Path(__file__).parent.parent / "configs" / "quick.toml"


def commands() -> list[str]:
    return list(cli.COMMANDS)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs a command that must end with exit code 2 and one line on stderr; returns the line."""
    assert cli.main(list(map(str, arguments))) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("kws: ")
    return err


def test_the_main_commands_exist() -> None:
    assert set(commands()) >= {"synth", "pack", "inspect", "verify", "train", "evaluate", "predict", "report", "models"}


def test_help_explains_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    assert "exit codes" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands())
def test_help_of_every_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert f"example: kws {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["train", "--nothing"]])
def test_wrong_arguments_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage: kws" in capsys.readouterr().err


LOGIN_NODE = """
import contextlib, sys
import kws, kws.cli

for words in ([], ["--help"], ["train", "--help"], ["inspect", "nowhere"], ["train", "nowhere.toml"], ["settings"],
              ["configs"]):
    with contextlib.suppress(SystemExit):
        kws.cli.main(words)
    if "torch" in sys.modules:
        sys.exit(f"kws {' '.join(words)} imports torch")
"""


def test_commands_for_login_nodes_do_not_import_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LOGIN_NODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_python_m_kws_runs_the_command(kws: Kws) -> None:
    done = kws("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kws ")


def test_models_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [name for name in registry.MODELS if name.startswith("tc_resnet")]
    assert cli.main(["models", "tc_resnet*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == wanted
    assert all(isinstance(row["parameters"], int) for row in rows)
    assert cli.main(["models", "tc_resnet*"]) == 0
    table = capsys.readouterr().out
    assert [name for name in registry.MODELS if name in table] == wanted


def test_inspect_and_verify_of_a_corpus(tones: index.Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tones.root), "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert cli.main(["inspect", str(tones.root)]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in tones.words)
    assert cli.main(["verify", str(tones.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"clips": sum(map(len, tones.splits.values()))}


# --- usage errors: exit code 2, one line ----------------------------------------------------------------------


def test_a_missing_config_is_one_line(kws: Kws, tmp_path: Path) -> None:
    done = kws("train", tmp_path / "none.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kws: {tmp_path}/none.toml: ")
    assert done.stderr.count("\n") == 1


def test_missing_shards_are_one_line_that_names_the_command_to_make_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shards = tmp_path / "none"
    error = refused(capsys, "train", QUICK, "--set", f"data.shards={shards}", "--run", tmp_path / "run")
    assert str(shards) in error
    assert "kws pack" in error
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_is_one_line_with_the_closest_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train.epochs" in refused(capsys, "train", QUICK, "--set", "train.epoch=3")


def test_processes_that_do_not_divide_the_slots_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1, 2, 4, 8" in refused(capsys, "train", QUICK, "--set", "train.processes=3")


def test_a_missing_archive_is_one_line_and_leaves_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert f"{tmp_path}/none.tar.gz" in refused(capsys, "pack", tmp_path / "none.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pack_with_one_path_names_the_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "kws pack SRC... DIR" in refused(capsys, "pack", tmp_path)


def test_an_archive_without_audio_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "word").mkdir()
    (tmp_path / "word" / "readme.md").write_text("no sound")
    subprocess.run(["tar", "-czf", "a.tar.gz", "word"], cwd=tmp_path, check=True)
    assert "a.tar.gz" in refused(capsys, "pack", tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out" / "index").exists()


def test_a_source_that_is_no_archive_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert f"{tmp_path}/notes.txt" in refused(capsys, "pack", tmp_path / "notes.txt", tmp_path / "out")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_that_is_no_corpus_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert str(tmp_path) in refused(capsys, command, tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_folder_that_is_no_run_is_one_line(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = refused(capsys, command, tmp_path)
    assert str(tmp_path) in error
    assert "config.toml" in error


def test_predict_needs_a_run_and_audio(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"not read before the run")
    assert str(tmp_path) in refused(capsys, "predict", tmp_path, sound)
    assert "none.wav" in refused(capsys, "predict", tmp_path, tmp_path / "none.wav")


def test_a_damaged_run_folder_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[train\n")
    assert f"{tmp_path}/config.toml" in refused(capsys, "evaluate", tmp_path)
    (tmp_path / "config.toml").write_text("")
    assert "data.ledger=true" in refused(capsys, "verify", tmp_path)


def test_only_rank_0_prints_an_error_that_all_ranks_meet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["inspect", str(tmp_path)]) == cli.USAGE
    assert capsys.readouterr().err == ""


# --- pipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_pipe_is_not_a_failure(more: list[str], tones: index.Index) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kws", "inspect", str(tones.root), *more]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
def test_a_training_whose_pipe_has_no_reader_goes_on_and_says_so(tones: index.Index, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    settings = [f"data.shards={tones.root}", "data.workers=0", "train.device=cpu", "train.processes=0"]
    changes = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "kws", "train", str(QUICK), "--run", str(tmp_path / "run"), *changes]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr.count(b"stdout") == 1
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["code"]) == ("finished", 0)


@pytest.mark.parametrize("part", ["9/8", "0/8", "3", "a/b", "/"])
def test_an_impossible_part_is_refused(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"--part {part}" in refused(capsys, "pack", tmp_path, tmp_path / "out", "--part", part)


def test_a_recipe_for_a_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--part", "1/8", "--recipe", "shards/demo.toml")
    assert "--recipe" in refused(capsys, "pack", tmp_path, tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--valid", "60", "--test", "40"], "--valid 60 --test 40"),
        (["--valid", "-1"], "--valid -1"),
        (["--test", "nan"], "--test nan"),
        (["--processes", "0"], "--processes 0"),
        (["--part", "1/2", "--append"], "--append"),
    ],
)
def test_impossible_options_of_pack_are_refused(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refused(capsys, "pack", tmp_path, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
