"""Settings: defaults, the checks of values and of combinations, presets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from kws import settings_file
from kws.config import PRESETS, STEPS, Config, FrontEndConfig, TrainConfig, preset
from kws.errors import UsageError


def refusal(tree: dict[str, object]) -> str:
    with pytest.raises(UsageError) as caught:
        settings_file.parse(tree, "here.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data", "epoch_clips", -1),
        ("data", "window", 0),
        ("data", "workers", -1),
        ("data", "clip_seconds", 0.0),
        ("frontend", "speed", 0.6),
        ("frontend", "noise_probability", 1.5),
        ("frontend", "noise_snr_db", [5.0, 1.0]),
        ("frontend", "stretch", 0.51),
        ("frontend", "mix", 1.1),
        ("frontend", "amplitude", [1.0, 0.5]),
        ("frontend", "amplitude", [-0.1, 0.5]),
        ("frontend", "reverb_seconds", [0.001, 0.5]),
        ("frontend", "mixup_alpha", 0.0),
        ("frontend", "mixup_probability", -0.1),
        ("frontend", "shift_ms", -1.0),
        ("frontend", "frame_shift", -1),
        ("frontend", "band_masks", -1),
        ("data", "silence", 1.5),
        ("data", "silence", -0.1),
        ("train", "epochs", 0),
        ("train", "micro_batch", 1),
        ("train", "lr", 0.0),
        ("train", "lr", 1e38),
        ("train", "label_smoothing", 1.0),
        ("train", "keep", 0),
        ("train", "threads", -1),
    ],
)
def test_a_value_out_of_range_is_refused_with_key_and_value(section: str, key: str, value: object) -> None:
    message = refusal({section: {key: value}})
    assert message.startswith(f"here.toml: {section}: ")
    assert f"found {key} = {value}" in message


def test_all_values_of_a_section_that_are_out_of_range_are_named_at_once() -> None:
    message = refusal({"train": {"epochs": 0, "lr": 0.0, "micro_batch": 0, "zero": 1, "reduction": "exact"}})
    assert len(message.splitlines()) == 4
    assert all(line.startswith("here.toml: train: ") for line in message.splitlines())
    assert len(refusal({"frontend": {"speed": 0.6, "mix": 1.1}, "data": {"window": 0}}).splitlines()) == 3


@pytest.mark.parametrize("value", ["5", "5:5", "9:3", "-1:3", "a:b", "0:101", "1:2:3", " 1:2", "1:2\n", ":"])
def test_profiled_steps_that_are_no_range_are_refused(value: str) -> None:
    message = refusal({"train": {"profile": value}})
    assert message.startswith("here.toml: train: profile: ")
    assert f"profile = {value!r}" in message


def test_profiled_steps_are_a_range() -> None:
    assert TrainConfig(profile="100:110").profile_steps == (100, 110)
    assert TrainConfig(profile="0:100").profile_steps == (0, 100)
    assert TrainConfig().profile_steps is None


@pytest.mark.parametrize("value", ["long", True, [1.0], None])
def test_a_clip_length_that_is_no_number_is_refused_in_one_line(value: object) -> None:
    message = refusal({"data": {"clip_seconds": value}})
    assert message.startswith("here.toml: data.clip_seconds: ")
    assert "auto" in message
    assert f"found {value!r}" in message
    assert "\n" not in message


def test_a_clip_length_is_auto_or_a_number() -> None:
    for value, wanted in (("auto", "auto"), (2, 2.0), (1.5, 1.5)):
        config = settings_file.parse({"data": {"clip_seconds": value}}, "here.toml")
        assert config.data.clip_seconds == wanted


def test_global_batch_must_be_a_multiple_of_micro_batch() -> None:
    message = refusal({"train": {"global_batch": 100, "micro_batch": 64}})
    assert "micro_batch (64)" in message
    assert "global_batch = 100" in message


def test_slots_are_the_micro_batches_of_a_step() -> None:
    assert TrainConfig(global_batch=96, micro_batch=8).slots == 12


def test_processes_that_do_not_divide_the_slots_are_refused_with_the_divisors() -> None:
    message = refusal({"train": {"global_batch": 64, "micro_batch": 8, "processes": 3}})
    assert "1, 2, 4, 8" in message
    assert TrainConfig(global_batch=64, micro_batch=8, processes=4).processes == 4


@pytest.mark.parametrize(
    ("setting", "offered"),
    [
        ("train.reduction=exact", "train.reduction=fast"),
        ("train.precision=fp16", "train.precision=bf16"),
        ("data.on_bad=skip", "data.on_bad=fail"),
    ],
)
def test_settings_that_zero_does_not_support_are_refused_with_an_alternative(setting: str, offered: str) -> None:
    assert settings_file.from_overrides([setting]).train.zero == 0
    with pytest.raises(UsageError, match=r"^--set: train") as error:
        settings_file.from_overrides([setting, "train.zero=1"])
    assert f"--set {offered}" in str(error.value)
    assert "--set train.zero=0" in str(error.value)


def test_presets_change_only_their_own_settings_and_modern_is_the_default() -> None:
    assert preset("modern") == FrontEndConfig()
    assert preset("none").shift_ms == FrontEndConfig().shift_ms
    assert preset("none").features == FrontEndConfig().features


def test_a_front_end_augments_only_if_a_step_changes_clips() -> None:
    assert [name for name in PRESETS if preset(name).augments] == ["classic", "modern"]
    assert not preset("none", mixup_probability=1.0).augments  # mixup combines whole slots
    for step in STEPS:
        assert preset("none", **{f"{step}_probability": 0.1}).augments == (step != "mixup")
    assert preset("none", time_masks=1).augments
    assert preset("none", band_masks=1).augments
    assert not preset("none", time_masks=1, time_mask_ms=0.0).augments


def test_settings_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.lr = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        TrainConfig(3)  # type: ignore[misc]


def test_importing_settings_does_not_import_torch() -> None:
    code = "import sys, kws.settings_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_exact_implies_deterministic() -> None:
    assert TrainConfig(deterministic=True).is_deterministic
    assert TrainConfig(reduction="exact").is_deterministic
    assert not TrainConfig().is_deterministic
