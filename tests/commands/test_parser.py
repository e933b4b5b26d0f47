"""What the parser says to mistyped commands, options and choices, and to a --set that the shell has split."""

from __future__ import annotations

import pytest

from kws import cli


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
