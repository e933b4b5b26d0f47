import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws import config as settings_file
from kws.config import PRESETS, STEPS, Config, DataConfig, FrontEndConfig, TrainConfig, preset
from kws.errors import UsageError


def parsed(tree: dict[str, object]) -> Config:
    return settings_file.parse(tree, "here.toml")


def overridden(tmp_path: Path, *texts: str, file: str = "") -> Config:
    path = tmp_path / "c.toml"
    path.write_text(file)
    return settings_file.load(path, texts)


def refusal(tree: dict[str, object]) -> str:
    with pytest.raises(UsageError) as caught:
        parsed(tree)
    return str(caught.value)


def test_an_empty_file_is_the_defaults() -> None:
    assert parsed({}) == Config()


@pytest.mark.parametrize(
    ("tree", "wrong", "near"),
    [
        ({"train": {"epoch": 3}}, "train.epoch", "train.epochs"),
        ({"train": {"microbatch": 3}}, "train.microbatch", "train.micro_batch"),
        ({"trian": {"lr": 0.1}}, "trian", "train"),
        ({"lr": 0.1}, "lr", "train.lr"),
        ({"train": {"sampling": "natural"}}, "train.sampling", "data.sampling"),
    ],
)
def test_an_unknown_key_names_file_key_and_nearest(tree: dict[str, object], wrong: str, near: str) -> None:
    assert refusal(tree) == f"here.toml: unknown key {wrong}; did you mean {near}?"


def test_a_key_like_no_other_gets_all_of_them() -> None:
    message = refusal({"zzzzzzzz": 1})
    assert all(key in message for key in settings_file.known_keys())


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "lr", "fast"),
        ("train", "lr", float("inf")),
        ("train", "weight_decay", float("nan")),
        ("train", "epochs", 3.0),
        ("train", "epochs", "3"),
        ("train", "epochs", True),
        ("data", "ledger", 1),
        ("data", "ledger", "yes"),
        ("data", "shards", 5),
        ("data", "sampling", "fair"),
        ("data", "workers", [1]),
        ("frontend", "noise_snr_db", [1]),
        ("frontend", "noise_snr_db", ["a", 2]),
    ],
)
def test_a_wrong_type_says_where_and_what_was_found(section: str, key: str, value: object) -> None:
    message = refusal({section: {key: value}})
    assert message.startswith(f"here.toml: {section}.{key}")
    assert ", found " in message


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
def test_a_value_out_of_range_says_key_wanted_and_found(section: str, key: str, value: object) -> None:
    message = refusal({section: {key: value}})
    assert message.startswith(f"here.toml: {section}: ")
    assert "wanted" in message
    assert f"found {key} = {value}" in message


def test_all_mistakes_are_said_at_once() -> None:
    lines = refusal({"train": {"epoch": 3, "lr": "x"}, "model": {"nam": "a"}, "data": {"window": 0}}).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("here.toml: ") for line in lines)


def test_global_batch_must_be_a_multiple_of_micro_batch() -> None:
    message = refusal({"train": {"global_batch": 100, "micro_batch": 64}})
    assert "wanted a multiple of micro_batch (64); found global_batch = 100" in message


def test_slots_are_the_micro_batches_of_a_step() -> None:
    assert TrainConfig(global_batch=96, micro_batch=8).slots == 12


def test_processes_that_do_not_divide_the_slots_are_refused_with_those_that_do() -> None:
    message = refusal({"train": {"global_batch": 64, "micro_batch": 8, "processes": 3}})
    assert "8 slots (global_batch 64 / micro_batch 8) run on 1, 2, 4, 8 processes, not 3" in message
    assert TrainConfig(global_batch=64, micro_batch=8, processes=4).processes == 4


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.reduction=exact", "use --set train.reduction=fast, or --set train.zero=0; found zero = 1"),
        ("train.precision=fp16", "use --set train.precision=bf16, or --set train.zero=0; found zero = 1"),
        ("data.on_bad=skip", "use --set data.on_bad=fail, or --set train.zero=0"),
    ],
)
def test_what_zero_cannot_honour_is_refused_with_what_to_type(setting: str, says: str) -> None:
    assert settings_file.of_overrides([setting]).train.zero == 0
    with pytest.raises(UsageError, match=r"^--set: train") as error:
        settings_file.of_overrides([setting, "train.zero=1"])
    assert says in str(error.value)


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("[train\nlr = ")
    binary.write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "none.toml", tmp_path, broken, binary):
        with pytest.raises(UsageError, match=r"cannot be read|not TOML") as caught:
            settings_file.load(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("train.lr=0.05", "train", "lr", 0.05),
        ("train.lr=1", "train", "lr", 1.0),
        ("train.epochs = 7", "train", "epochs", 7),
        ("data.ledger=true", "data", "ledger", True),
        ("frontend.noise_snr_db=[1.5, 3]", "frontend", "noise_snr_db", (1.5, 3.0)),
        ("model.name=resnet32", "model", "name", "resnet32"),
        ('model.name="resnet32"', "model", "name", "resnet32"),
        ("data.shards=/mnt/a=b.c", "data", "shards", "/mnt/a=b.c"),
        ("data.shards=C:\\new", "data", "shards", "C:\\new"),
        ("data.shards=", "data", "shards", ""),
    ],
)
def test_set_takes_numbers_lists_strings_and_bare_words(
    tmp_path: Path, text: str, section: str, key: str, value: object
) -> None:
    assert getattr(getattr(overridden(tmp_path, text), section), key) == value


def test_set_lies_over_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    file = "[train]\nlr = 0.5\nepochs = 4\n"
    config = overridden(tmp_path, "train.lr=0.1", "train.lr=0.2", file=file)
    assert (config.train.lr, config.train.epochs) == (0.2, 4)


@pytest.mark.parametrize("text", ["train.lr", "=3", "", " =1"])
def test_set_without_key_or_value_says_how_it_is_typed(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"wanted section\.key=value, such as --set train\.lr=0\.05"):
        overridden(tmp_path, text)


@pytest.mark.parametrize("text", ["train=3", "train.lr.x=3", "train..lr=3", "train.=3"])
def test_set_of_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        overridden(tmp_path, text, file="[train]\nlr = 0.5\n")


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(1e-12, 1000.0),
    st.integers(0, 2**60),
    st.booleans(),
    st.tuples(st.floats(-90, 0), st.floats(0, 90)),
)
def test_written_as_toml_and_read_again_is_the_same(
    shards: str, lr: float, seed: int, ledger: bool, snr: tuple[float, float]
) -> None:
    config = Config(
        data=DataConfig(shards=shards, ledger=ledger),
        frontend=FrontEndConfig(noise_snr_db=snr),
        train=TrainConfig(lr=lr, seed=seed),
    )
    assert parsed(tomllib.loads(settings_file.to_toml(config))) == config


def test_differences_leave_out_what_is_free_to_change_and_nothing_else() -> None:
    said = set()
    for key, value in settings_file.flatten(Config()).items():
        other = {"optimizer": "sgd", "schedule": "constant", "device": "cpu", "sampling": "power", "verify": "never",
                 "reduction": "exact", "precision": "bf16", "allow_change": "epochs"}  # fmt: skip
        section, name = key.split(".")
        changed = other.get(name, "mel40" if name == "features" else _another(value))
        part = dataclasses.replace(getattr(Config(), section), **{name: changed, **_fitting(name)})
        lines = settings_file.differences(Config(), dataclasses.replace(Config(), **{section: part}))
        if any(line.startswith(f"{key}: {value!r} there, ") for line in lines):
            said.add(key)
    assert said == set(settings_file.known_keys()) - settings_file.FREE_TO_CHANGE
    assert set(settings_file.known_keys()) > settings_file.FREE_TO_CHANGE


def _another(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value if value else 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    return (value[0], value[1] + 1.0) if isinstance(value, tuple) else f"{value}x"


def _fitting(name: str) -> dict[str, object]:
    return {"global_batch": 1024} if name == "micro_batch" else {}


# --- presets of the front end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_in_a_file_and_by_set_is_the_same(tmp_path: Path, name: str) -> None:
    by_file = parsed({"frontend": {"augment": name}})
    assert by_file.frontend == preset(name)
    assert overridden(tmp_path, f"frontend.augment={name}") == by_file
    assert settings_file.of_overrides([f"frontend.augment={name}"]) == by_file


def test_what_a_preset_leaves_alone_is_the_default_and_modern_is_the_default() -> None:
    assert preset("modern") == FrontEndConfig()
    assert preset("none").shift_ms == FrontEndConfig().shift_ms
    assert preset("none").features == FrontEndConfig().features


@pytest.mark.parametrize("order", [["frontend.augment=classic", "frontend.speed=0.1"], ["frontend.speed=0.1"], []])
def test_what_is_set_beside_a_preset_counts_before_it_in_any_order(tmp_path: Path, order: list[str]) -> None:
    file = '[frontend]\nspeed = 0.1\naugment = "classic"\nmix_probability = 0.0\n'
    for overrides in (order, order[::-1]):
        found = overridden(tmp_path, *overrides, file=file).frontend
        assert found == preset("classic", speed=0.1, mix_probability=0.0)
        assert found.stretch_probability == 0.5


def test_a_preset_by_set_goes_before_that_of_the_file_and_keeps_what_stands_beside_it(tmp_path: Path) -> None:
    file = '[frontend]\naugment = "classic"\nstretch = 0.1\nfeatures = "mel32"\n'
    found = overridden(tmp_path, "frontend.augment=none", file=file).frontend
    assert found == preset("none", stretch=0.1, features="mel32")
    assert not found.augments


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    message = refusal({"frontend": {"augment": "modren"}})
    assert message.startswith("here.toml: frontend.augment: ")
    assert "'modren'" in message
    assert all(repr(name) in message for name in PRESETS)
    assert refusal({"frontend": {"augment": 3}}).startswith("here.toml: frontend.augment: ")
    assert refusal({"frontend": {"augment": True, "speed": "x"}}).count("\n") == 1  # both mistakes


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("changes", [{}, {"speed": 0.05, "noise_snr_db": (-3.5, 9.0), "mixup_probability": 1.0}])
def test_the_dumped_settings_of_a_preset_load_to_the_same(name: str, changes: dict[str, object]) -> None:
    config = Config(frontend=preset(name, **changes))
    assert parsed(tomllib.loads(settings_file.to_toml(config))) == config


def test_only_a_chain_with_a_step_that_changes_clips_varies() -> None:
    assert [name for name in PRESETS if preset(name).augments] == ["classic", "modern"]
    assert not preset("none", mixup_probability=1.0).augments  # whole slots, not clips
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


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, kws.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_preset_takes_with_it_what_a_dumped_config_lists_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        settings_file.to_toml(
            settings_file.parse({"frontend": {"augment": "classic", "features": "mel40", "speed": 0.3}}, "here")
        )
    )
    assert settings_file.load(path).frontend == preset("classic", features="mel40", speed=0.3)
    assert settings_file.load(path, ["frontend.augment=none"]).frontend == preset("none", features="mel40", speed=0.3)
    assert settings_file.load(path, ["frontend.augment=modern"]).frontend == preset(
        "modern", features="mel40", speed=0.3
    )
    still = settings_file.load(path, ["frontend.augment=classic", "frontend.mix=0.1"]).frontend
    assert still == preset("classic", features="mel40", speed=0.3, mix=0.1)


def test_an_old_name_of_a_preset_is_read_with_a_note(tmp_path: Path) -> None:
    path, notes = tmp_path / "config.toml", []
    path.write_text('[frontend]\naugment = "seed"\nspeed = 0.1\n', encoding="utf-8")
    assert settings_file.load(path, note=notes.append).frontend == preset("classic", speed=0.1)
    assert len(notes) == 1
    assert all(word in notes[0] for word in ("frontend.augment", '"seed"', '"classic"'))
    assert settings_file.load(path, ["frontend.augment=seed"]) == settings_file.load(path)
    # As config.toml of an old run lists it, with all values of the preset: another preset replaces them.
    dumped = settings_file.to_toml(settings_file.load(path)).replace('"classic"', '"seed"')
    path.write_text(dumped, encoding="utf-8")
    assert settings_file.load(path, ["frontend.augment=none"]).frontend == preset("none", speed=0.1)
