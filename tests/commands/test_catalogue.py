import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.commands import catalogue
from kws.errors import UsageError
from kws.models import MODELS, build, count_parameters

Kws = Callable[..., "subprocess.CompletedProcess[str]"]


def test_every_network_has_a_config_of_its_name() -> None:
    assert [name for name in MODELS if not (catalogue.CONFIGS / f"{name}.toml").is_file()] == []


def test_a_row_counts_the_module_at_its_configs_front_end() -> None:
    row = catalogue.row("resnet32")
    assert (row["features"], row["input"], row["config"]) == ("mel32", (1, 32, 32), "configs/resnet32.toml")
    assert row["parameters"] == count_parameters(build("resnet32", 35, (1, 32, 32)))
    assert row["family"] == "resnet_cifar"


def test_without_configs_the_defaults_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "CONFIGS", tmp_path)
    row = catalogue.row("tc_resnet8")
    assert (row["features"], row["config"]) == ("logmel40", "")
    assert "tc_resnet8" in str(catalogue.table([row]).caption)


def test_patterns_choose_in_the_registrys_order() -> None:
    assert catalogue.matching(["wrn_28*", "resnet32"]) == [
        name for name in MODELS if name.startswith("wrn_28") or name == "resnet32"
    ]
    assert catalogue.matching([]) == list(MODELS)
    with pytest.raises(UsageError, match=r"kws models wrn-52-10: .* the nearest is wrn_52_10"):
        catalogue.matching(["resnet32", "wrn-52-10"])


def test_the_command_shows_them(kws: Kws) -> None:
    shown = kws("models", "bcresnet_1", "resnet32", env={"COLUMNS": "80"})
    assert shown.returncode == 0, shown.stderr
    assert "9,991" in shown.stdout
    assert "465,491" in shown.stdout
    assert "2106.04140" in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines() if line[0] in "┏┃├│└") <= 80
    (row,) = json.loads(kws("models", "bcresnet_1", "--json").stdout)
    assert row["multiply_adds"] > 1e6
    wrong = kws("models", "nothing*")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
