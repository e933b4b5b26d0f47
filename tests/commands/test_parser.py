"""The parser's answers to mistyped commands, options and choices, and to a --set that the shell has split."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws import cli
from kws.commands.arguments import make_parser


def refused(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """The last line on stderr of a command that must end with exit code 2."""
    with pytest.raises(SystemExit) as left:
        cli.main(words.split())
    assert left.value.code == cli.USAGE
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("trian quick", "train"),
        ("synth x --procesess 2", "--processes"),
        ("pack a b --format falc", "flac"),
        ("train quick --rnu x", "--run"),
        ("train quick --epochs 3", "--set train.epochs=3"),
        ("train quick --lr=0.1", "--set train.lr=0.1"),
        ("train quick data.shards=x", "--set data.shards=x"),
        ("train quick --data.shards x", "--set data.shards=x"),
        ("launch slrum quick", "slurm"),
    ],
)
def test_the_nearest_is_named(words: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, words).endswith(f"did you mean {near}?")


def test_a_value_with_a_dash_is_answered_with_how_to_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "mix a b --snr -5:5").endswith("--snr=-...")


@pytest.mark.parametrize("words", ["fly", "train quick --zzzz", "inspect a b"])
def test_what_is_near_nothing_is_refused_without_a_guess(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in refused(capsys, words)


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ("--set train.lr 0.05", "--set train.lr=0.05"),
        ("--set train.lr = 0.05", "--set train.lr=0.05"),
        ("--set train.lr =0.05", "--set train.lr=0.05"),
        ("--set train.lr= 0.05", "--set train.lr=0.05"),
        ("--set train.weight_decay -0.1", "--set train.weight_decay=-0.1"),
    ],
)
@pytest.mark.parametrize("command", ["train quick {}", "train {} quick", "launch slurm quick {} --dry-run"])
def test_a_split_setting_is_answered_with_what_to_type(
    command: str, given: str, typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, command.format(given))
    assert line.startswith(f"kws: {given}: ")
    assert line.endswith(f"type {typed}")


def test_an_empty_text_and_a_setting_before_an_option_are_no_split_setting() -> None:
    from kws.commands.parser import split_setting

    assert split_setting(["train", "--set", "data.shards=", "quick"]) is None
    assert split_setting(["train", "quick", "--set", "train.lr", "--check"]) is None  # refused later, with an example
    assert split_setting(["train", "quick", "--set", "train.lr=1", "--set", "data.task=words"]) is None


# --- options and paths in any order -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("pack SRC --processes 2 DIR", {"paths": ["SRC", "DIR"], "processes": 2}),
        ("pack --names {word}_{} A B DIR", {"paths": ["A", "B", "DIR"], "names": "{word}_{}"}),
        ("pack A --append B --valid 5 DIR --json", {"paths": ["A", "B", "DIR"], "append": True, "valid": 5.0}),
        ("evaluate --split test RUN", {"runs": ["RUN"], "split": "test"}),
        ("evaluate A --split valid B --json", {"runs": ["A", "B"], "split": "valid", "json": True}),
        ("compare A --out DIR B", {"runs": ["A", "B"], "out": "DIR"}),
        ("predict RUN --top 2 a.wav b.wav", {"run": "RUN", "paths": ["a.wav", "b.wav"], "top": 2}),
        ("predict --checkpoint last RUN a.wav --json b.wav", {"run": "RUN", "paths": ["a.wav", "b.wav"]}),
        ("fetch --keep NAME --url U DIR", {"name": "NAME", "dir": "DIR", "keep": True}),
        ("record yes --count 3 DIR", {"word": "yes", "dir": "DIR", "count": 3}),
        ("train --set a.b=1 CONFIG --set c.d=2 --run R", {"config": "CONFIG", "set": ["a.b=1", "c.d=2"], "run": "R"}),
        ("launch slurm A --nodes 2 B", {"where": "slurm", "configs": ["A", "B"], "nodes": 2}),
        ("models --json wrn* ds_cnn", {"names": ["wrn*", "ds_cnn"]}),
        ("inspect --clip train/0 DIR", {"dir": "DIR", "clip": "train/0"}),
        ("pack --processes 2 -- -SRC DIR", {"paths": ["-SRC", "DIR"], "processes": 2}),
        ("pack SRC/ ./DIR", {"paths": ["SRC", "DIR"]}),
    ],
)
def test_options_may_stand_between_paths(typed: str, wanted: dict[str, object]) -> None:
    found = vars(make_parser().parse_args(typed.split()))

    def plain(value: object) -> object:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    assert {name: plain(found[name]) for name in wanted} == wanted


@pytest.mark.parametrize("arguments", [["pack", "", "out"], ["train", "x.toml", "--run", ""], ["predict", "run", ""]])
def test_an_empty_path_is_refused_and_is_not_the_current_folder(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        make_parser().parse_args(arguments)
    assert left.value.code == 2
    assert "empty" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["pack"], ["predict", "run"], ["evaluate", "run", "--fly"]])
def test_missing_and_unknown_arguments_are_refused_in_any_order(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        make_parser().parse_args(arguments)
    assert left.value.code == 2
