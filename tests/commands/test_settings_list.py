"""`kws settings`: every setting with its default and the explanation from config.py."""

from __future__ import annotations

import json

import pytest

from kws import cli, settings_file
from kws.commands.settings_list import find_settings
from kws.config import PRESETS, Config, preset
from kws.errors import UsageError


def test_every_setting_is_explained_with_its_default() -> None:
    found = {item.name: item for item in find_settings()}
    assert {name: item.default for name, item in found.items()} == settings_file.flatten(Config())
    assert [name for name, item in found.items() if not item.text] == []
    assert found["train.optimizer"].wanted == "adamw, sgd"
    assert "SpecAugment" in found["frontend.time_masks"].text, "explained together with time_mask_ms"


def test_words_select_by_name_and_by_text_and_all_must_match() -> None:
    assert {"frontend.noise_snr_db", "data.silence"} <= {item.name for item in find_settings(["noise"])}
    assert [item.name for item in find_settings(["NOISE", "wave", "ratio"])] == [
        "frontend.noise_probability", "frontend.noise_snr_db",
    ]  # fmt: skip


def test_a_word_that_nothing_mentions_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="warmup"):
        find_settings(["warmpu"])


def test_presets_have_the_values_that_they_set() -> None:
    for item in find_settings(["frontend."]):
        key = item.name.partition(".")[2]
        for name, value in item.presets.items():
            assert value == getattr(preset(name), key)
    assert any(item.presets for item in find_settings(["speed_about"]))


def test_the_command_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "augment"]) == cli.OK
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*PRESETS, "frontend.augment", "stretch_probability"))
    assert cli.main(["settings", "train.ema", "--json"]) == cli.OK
    row = json.loads(capsys.readouterr().out)
    assert (row["name"], row["default"], row["resume"]) == ("train.ema", 0.0, "never")
    assert "0.999" in row["text"]
