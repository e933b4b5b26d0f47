"""`--allow-faults`: a packing that leaves out damaged files ends with 1, and in scripts with 0 up to a limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kws import cli
from kws.commands.allowed_faults import AllowedFaults
from kws.errors import UsageError
from tests.conftest import write_corpus


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 recordings, of which two are damaged."""
    root = write_corpus(tmp_path_factory.mktemp("damaged") / "wav", {"low": 20, "high": 20}, samples=2000)
    for path in sorted(root.glob("low/*.wav"))[:2]:
        path.write_bytes(path.read_bytes()[:20])
    return root


@pytest.mark.parametrize(
    ("allowed", "code"), [(None, cli.FAILED), ("2", cli.OK), pytest.param("4%", cli.FAILED, marks=pytest.mark.slow)]
)
def test_the_exit_code_depends_on_how_many_were_left_out(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: str | None, code: int
) -> None:
    options = ["--allow-faults", allowed] if allowed else []
    assert cli.main(["pack", str(source), str(tmp_path / "out"), "--processes", "1", *options]) == code
    err = capsys.readouterr().err
    assert err.count("fault: ") == 2
    assert "--allow-faults" in err
    assert (tmp_path / "out" / "index" / "index.json").exists()


def test_json_lists_the_faults_whatever_is_allowed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pack", str(source), str(tmp_path / "out"), "--processes", "1", "--json", "--allow-faults", "100%"]
    assert cli.main(words) == cli.OK
    assert len(json.loads(capsys.readouterr().out)["faults"]) == 2


@pytest.mark.parametrize(
    ("allowed", "faults", "code"),
    [
        ("0", 0, cli.OK),
        ("0", 1, cli.FAILED),
        ("3", 3, cli.OK),
        ("3", 4, cli.FAILED),
        ("5%", 5, cli.OK),
        ("5%", 6, cli.FAILED),
    ],
)
def test_percentages_are_of_all_recordings(allowed: str, faults: int, code: int) -> None:
    assert AllowedFaults.parse(allowed).exit_code(faults, 100 - faults) == code


@pytest.mark.parametrize("text", ["", "x", "-1", "101%", "1.5", "nan%", "inf%", "%"])
def test_anything_but_a_number_or_a_percentage_is_refused_before_packing(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--allow-faults"):
        AllowedFaults.parse(text)


def test_differences_from_a_recipe_are_never_allowed(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('words = ["low", "high"]\n[clips]\ntrain = 1\n')
    words = ["pack", str(source), str(tmp_path / "out"), "--processes", "1", "--allow-faults", "100%"]
    assert cli.main([*words, "--recipe", str(recipe)]) == cli.FAILED
