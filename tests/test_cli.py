import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kws import cli, models
from kws.data import index

Kws = Callable[..., subprocess.CompletedProcess[str]]
QUICK = Path(__file__).parent.parent / "configs" / "quick.toml"


def commands() -> list[str]:
    return list(cli.COMMANDS)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the one line on stderr says."""
    assert cli.main(list(map(str, arguments))) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("kws: ")
    return err


def test_there_are_the_designs_commands() -> None:
    assert set(commands()) >= {"synth", "pack", "inspect", "verify", "train", "evaluate", "predict", "report", "models"}


def test_help_of_kws_itself_explains_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    assert "75 stopped and saved" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", commands())
def test_help_of_every_command_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert f"example: kws {command}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["train", "--nothing"]])
def test_what_argparse_refuses_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage: kws" in capsys.readouterr().err


@pytest.mark.parametrize(
    "code",
    [
        "import kws",
        "import kws.cli; kws.cli.main(['--help'])",
        "import kws.cli; kws.cli.main(['train', '--help'])",
        "import kws.cli; kws.cli.main(['inspect', 'nowhere'])",
        "import kws.cli; kws.cli.main(['train', 'nowhere.toml'])",
    ],
)
def test_what_answers_on_a_login_node_does_not_import_torch(code: str) -> None:
    text = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, check=False).returncode == 0


def test_python_m_kws_is_the_command(kws: Kws) -> None:
    done = kws("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("kws ")


def test_models_lists_networks_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [name for name in models.MODELS if name.startswith("tc_resnet")]
    assert cli.main(["models", "tc_resnet*", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == wanted
    assert all(isinstance(row["parameters"], int) for row in rows)
    assert cli.main(["models", "tc_resnet*"]) == 0
    table = capsys.readouterr().out
    assert [name for name in models.MODELS if name in table] == wanted


def test_inspect_and_verify_of_a_corpus(tones: index.Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tones.root), "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert cli.main(["inspect", str(tones.root)]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in tones.words)
    assert cli.main(["verify", str(tones.root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"clips": sum(map(len, tones.splits.values()))}


# --- what the user can mend: exit code 2, one line ------------------------------------------------------------


def test_a_missing_config_is_one_line(kws: Kws, tmp_path: Path) -> None:
    done = kws("train", tmp_path / "none.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"kws: {tmp_path}/none.toml: cannot be read (No such file or directory); "
        "wanted a TOML file such as configs/quick.toml\n"
    )


def test_missing_shards_are_one_line_that_says_how_to_make_them(kws: Kws, tmp_path: Path) -> None:
    shards = tmp_path / "none"
    done = kws("train", QUICK, "--set", f"data.shards={shards}", "--run", tmp_path / "run", env={"RANK": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"{shards}: no packed corpus there" in done.stderr
    assert "kws pack" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key train.epoch; did you mean train.epochs?" in refused(
        capsys, "train", QUICK, "--set", "train.epoch=3"
    )


def test_processes_that_do_not_divide_the_slots_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "run on 1, 2, 4, 8 processes, not 3" in refused(capsys, "train", QUICK, "--set", "train.processes=3")


def test_a_missing_archive_is_one_line_and_leaves_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = refused(capsys, "pack", tmp_path / "none.tar.gz", tmp_path / "out")
    assert f"{tmp_path}/none.tar.gz: no such folder or archive" in error
    assert not (tmp_path / "out").exists()


def test_pack_of_one_path_says_what_is_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "kws pack SRC... DIR" in refused(capsys, "pack", tmp_path)


def test_an_archive_without_audio_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "word").mkdir()
    (tmp_path / "word" / "readme.md").write_text("no sound")
    subprocess.run(["tar", "-czf", "a.tar.gz", "word"], cwd=tmp_path, check=True)
    assert "no audio in word folders" in refused(capsys, "pack", tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out" / "index").exists()


def test_a_file_that_is_no_archive_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert f"{tmp_path}/notes.txt" in refused(capsys, "pack", tmp_path / "notes.txt", tmp_path / "out")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_that_is_no_corpus_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert f"{tmp_path}: no packed corpus there" in refused(capsys, command, tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_folder_that_is_no_run_is_one_line(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = refused(capsys, command, tmp_path)
    assert str(tmp_path) in error
    assert "config.toml" in error


def test_predict_needs_a_run_and_audio(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"not read before the run")
    assert "not a run folder" in refused(capsys, "predict", tmp_path, sound)
    assert "none.wav: no such file or folder" in refused(capsys, "predict", tmp_path, tmp_path / "none.wav")


def test_a_damaged_run_folder_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[train\n")
    assert f"{tmp_path}/config.toml: not TOML" in refused(capsys, "evaluate", tmp_path)
    (tmp_path / "config.toml").write_text("")
    assert "no ledger there; train with --set data.ledger=true" in refused(capsys, "verify", tmp_path)


def test_only_rank_0_says_what_all_ranks_meet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["inspect", str(tmp_path)]) == cli.USAGE
    assert capsys.readouterr().err == ""


# --- pipes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_reader_that_has_gone_is_no_failure(more: list[str], tones: index.Index) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kws", "inspect", str(tones.root), *more]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_training_whose_pipe_breaks_has_failed_and_says_why(tones: index.Index, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    settings = [f"data.shards={tones.root}", "data.workers=0", "train.device=cpu", "train.processes=0"]
    changes = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "kws", "train", str(QUICK), "--run", str(tmp_path / "run"), *changes]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["code"], status["why"]) == ("failed", 1, "the reader of stdout has gone")


@pytest.mark.parametrize("part", ["9/8", "0/8", "3", "a/b", "/"])
def test_a_part_that_cannot_be_is_refused(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "pack", tmp_path, tmp_path / "out", "--part", part)
    assert f"--part {part}: wanted NUMBER/COUNT, such as 1/8 to 8/8" in said


def test_a_recipe_does_not_count_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "pack", tmp_path, tmp_path / "out", "--part", "1/8", "--recipe", "shards/demo.toml")
    assert "--recipe: counts a whole corpus" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--valid", "60", "--test", "40"], "--valid 60 --test 40: wanted percents that leave some for training"),
        (["--valid", "-1"], "--valid -1 --test 10: wanted percents"),
        (["--test", "nan"], "--valid 10 --test nan: wanted percents"),
        (["--processes", "0"], "--processes 0: wanted 1 or more"),
        (["--part", "1/2", "--append"], "--append: adds to one corpus, and --part makes another"),
    ],
)
def test_options_of_pack_that_cannot_be_are_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, "pack", tmp_path, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
