"""Files that come with kws: found by name from any folder, one's own first, with the nearest name otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws import shipped_files
from kws.errors import UsageError
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_in_a_checkout_the_files_are_those_of_the_checkout() -> None:
    for name in ("configs", "launch", "slurm", "shards", "shards/tasks"):
        assert shipped_files.folder(name) == ROOT / name
    assert {"quick", "demo", "bcresnet_1.5"} <= set(shipped_files.config_names())


@pytest.mark.parametrize("given", ["quick", "quick.toml", "configs/quick.toml", "configs/quick"])
def test_a_shipped_config_is_found_by_its_name(given: str) -> None:
    assert shipped_files.find_config(Path(given)) == ROOT / "configs" / "quick.toml"


def test_a_dot_in_a_name_is_no_ending() -> None:
    assert shipped_files.find_config(Path("bcresnet_1.5")).name == "bcresnet_1.5.toml"


@pytest.mark.parametrize("own", ["quick", "quick.toml"])
def test_a_file_in_the_current_folder_wins(own: str, tmp_path: Path) -> None:
    (tmp_path / own).write_text("")
    assert shipped_files.find_config(Path("quick")) == Path(own)


def test_a_folder_of_that_name_does_not_hide_the_shipped_config(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    with pytest.raises(UsageError, match="folder"):
        shipped_files.find_config(Path("quick"))
    assert shipped_files.find_config(Path("quick.toml")) == ROOT / "configs" / "quick.toml"


def test_in_a_configs_folder_of_ones_own_a_missing_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quack.toml").write_text("")
    with pytest.raises(UsageError) as error:
        shipped_files.find_config(Path("configs/quick.toml"))
    assert "configs/quack.toml" in str(error.value)


@pytest.mark.parametrize(
    ("given", "near"),
    [("qick", "quick"), ("wrn_2810.toml", "wrn_28_10"), ("resnet", "resnet20"), ("x/demo.toml", "demo")],
)
def test_a_missing_config_names_the_nearest(given: str, near: str) -> None:
    with pytest.raises(UsageError) as error:
        shipped_files.find_config(Path(given))
    assert str(error.value).startswith(f"{given}: ")
    assert near in str(error.value).partition("did you mean")[2]
    assert "kws configs" in str(error.value)
