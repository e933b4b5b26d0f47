"""The table of networks."""

import json
from pathlib import Path

import pytest

from kws import cli, shipped_files
from kws.commands import catalogue
from kws.errors import UsageError
from kws.models.cost import count_parameters
from kws.models.registry import MODELS, build_model


def test_every_network_has_a_config_with_its_name() -> None:
    assert [name for name in MODELS if name not in shipped_files.config_names()] == []


def test_a_row_has_the_cost_with_the_features_of_the_config() -> None:
    row = catalogue.network_row("resnet32")
    assert (row["features"], row["input"], row["config"]) == ("mel32", (1, 32, 32), "configs/resnet32.toml")
    assert row["parameters"] == count_parameters(build_model("resnet32", 35, (1, 32, 32)))
    assert row["family"] == "resnet_cifar"


def test_without_a_config_the_default_features_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_files, "folder", lambda name: tmp_path)
    row = catalogue.network_row("tc_resnet8")
    assert (row["features"], row["config"]) == ("logmel40", "")
    assert "tc_resnet8" in str(catalogue.networks_table([row]).caption)


def test_a_row_says_whether_a_network_streams_and_what_a_second_costs() -> None:
    plain, causal = catalogue.network_row("tc_resnet8"), catalogue.network_row("tc_resnet8_causal")
    assert (plain["streams"], causal["streams"]) == (False, True)
    assert plain["multiply_adds_per_s"] == 10 * plain["multiply_adds"]
    # Every frame is computed once: a second of a stream costs little more than a clip of a second.
    assert plain["multiply_adds"] * 0.9 < causal["multiply_adds_per_s"] < plain["multiply_adds"] * 1.1
    assert causal["receptive_field_frames"] == 171
    assert causal["receptive_field_s"] == pytest.approx(1.725)
    assert catalogue.network_row("resnet20")["receptive_field_frames"] is None


def test_patterns_select_names_in_the_registrys_order() -> None:
    assert catalogue.find_names(["wrn_28*", "resnet32"]) == [
        name for name in MODELS if name.startswith("wrn_28") or name == "resnet32"
    ]
    assert catalogue.find_names([]) == list(MODELS)
    with pytest.raises(UsageError, match="wrn_52_10"):
        catalogue.find_names(["resnet32", "wrn-52-10"])


def test_the_command_prints_the_table_in_80_columns_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["models", "bcresnet_1", "resnet32"]) == cli.OK
    shown = capsys.readouterr().out
    for part in ("9,991", "465,491", "2106.04140"):
        assert part in shown
    assert max(len(line) for line in shown.splitlines() if "arXiv" not in line) <= 80
    assert cli.main(["models", "bcresnet_1", "--json"]) == cli.OK
    (row,) = json.loads(capsys.readouterr().out)
    assert row["multiply_adds"] > 1e6
    assert cli.main(["models", "nothing*"]) == cli.USAGE
    assert capsys.readouterr().err.count("\n") == 1
