"""Settings as TOML: files, --set, presets, old names and removed settings, and which may differ when a run resumes."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws import settings_file
from kws.config import PRESETS, Config, DataConfig, FrontEndConfig, TrainConfig, preset
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
def test_an_unknown_key_is_named_with_the_closest_key(tree: dict[str, object], wrong: str, near: str) -> None:
    message = refusal(tree)
    assert message.startswith("here.toml: ")
    assert wrong in message
    assert f"did you mean {near}?" in message


def test_a_key_similar_to_none_is_named_with_all_keys() -> None:
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
def test_a_wrong_type_is_named_with_file_and_key(section: str, key: str, value: object) -> None:
    assert refusal({section: {key: value}}).startswith(f"here.toml: {section}.{key}")


def test_all_mistakes_are_reported_at_once() -> None:
    lines = refusal({"train": {"epoch": 3, "lr": "x"}, "model": {"nam": "a"}, "data": {"window": 0}}).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("here.toml: ") for line in lines)


def test_a_missing_file_or_one_that_is_not_toml_is_named(tmp_path: Path) -> None:
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("[train\nlr = ")
    binary.write_bytes(b"\xff\xfe\0")
    for path in (tmp_path / "none.toml", tmp_path, broken, binary):
        with pytest.raises(UsageError, match=re.escape(str(path))):
            settings_file.load(path)


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
def test_set_reads_numbers_lists_strings_and_bare_words(
    tmp_path: Path, text: str, section: str, key: str, value: object
) -> None:
    assert getattr(getattr(overridden(tmp_path, text), section), key) == value


def test_set_overrides_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    file = "[train]\nlr = 0.5\nepochs = 4\n"
    config = overridden(tmp_path, "train.lr=0.1", "train.lr=0.2", file=file)
    assert (config.train.lr, config.train.epochs) == (0.2, 4)


@pytest.mark.parametrize("text", ["train.lr", "=3", "", " =1"])
def test_set_without_key_or_value_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"--set train\.lr=0\.05"):
        overridden(tmp_path, text)


@pytest.mark.parametrize("text", ["train=3", "train.lr.x=3", "train..lr=3", "train.=3"])
def test_set_of_something_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        overridden(tmp_path, text, file="[train]\nlr = 0.5\n")


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.floats(1e-12, 1000.0),
    st.integers(0, 2**60),
    st.booleans(),
    st.tuples(st.floats(-90, 0), st.floats(0, 90)),
)
def test_settings_written_as_toml_read_back_equal(
    shards: str, lr: float, seed: int, ledger: bool, snr: tuple[float, float]
) -> None:
    config = Config(
        data=DataConfig(shards=shards, ledger=ledger),
        frontend=FrontEndConfig(noise_snr_db=snr),
        train=TrainConfig(lr=lr, seed=seed),
    )
    assert parsed(tomllib.loads(settings_file.to_toml(config))) == config


def test_differences_list_all_settings_but_those_free_to_change() -> None:
    listed = set()
    for key, value in settings_file.flatten(Config()).items():
        other = {"optimizer": "sgd", "schedule": "constant", "device": "cpu", "sampling": "power", "verify": "never",
                 "reduction": "exact", "precision": "bf16", "allow_change": "epochs", "profile": "1:2"}  # fmt: skip
        section, name = key.split(".")
        changed = other.get(name, "mel40" if name == "features" else _another(value))
        part = dataclasses.replace(getattr(Config(), section), **{name: changed, **_fitting(name)})
        lines = settings_file.differences(Config(), dataclasses.replace(Config(), **{section: part}))
        if any(line.startswith(f"{key}: {value!r} ") for line in lines):
            listed.add(key)
    assert listed == set(settings_file.known_keys()) - settings_file.FREE_TO_CHANGE
    assert set(settings_file.known_keys()) > settings_file.FREE_TO_CHANGE


def _another(value: object) -> object:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value if value else 1
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if value == ():
        return ("runs/a",)
    return (value[0], value[1] + 1.0) if isinstance(value, tuple) else f"{value}x"


def _fitting(name: str) -> dict[str, object]:
    return {"global_batch": 1024} if name == "micro_batch" else {}


# --- where a mistake comes from -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("train.lr=fast", "train.lr"),
        ("train.epoch=3", "--set train.epochs=3"),
        ("lr=0.1", "--set train.lr=0.1"),
        ("train.epochs=0", "epochs = 0"),
        ("train.processes=3", "1, 2, 4, 8"),
        ("train.micro_batch=48", "micro_batch (48)"),  # its message is about global_batch, which the file sets
        ("frontend.noise_snr_db=[1, x]", "frontend.noise_snr_db"),
        ("train.zero=1", "data.on_bad"),
        ("train=3", "train"),
    ],
)
def test_a_mistake_of_an_override_is_blamed_on_it_and_not_on_the_file(
    tmp_path: Path, override: str, wanted: str
) -> None:
    file = '[train]\nglobal_batch = 512\nmicro_batch = 64\n[data]\non_bad = "skip"\n'
    with pytest.raises(UsageError) as error:
        overridden(tmp_path, override, file="" if override == "train=3" else file)
    assert str(error.value).startswith("--set: ")
    assert "c.toml" not in str(error.value)
    assert wanted in str(error.value)


def test_mistakes_of_both_are_blamed_each_on_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        overridden(tmp_path, "train.ema=2", "train.lr=x", file='[data]\nwindow = "x"\n[model]\nnam = "a"\n')
    lines = sorted(str(error.value).splitlines())
    assert [line.partition(": ")[0] for line in lines] == ["--set"] + 2 * [str(tmp_path / "c.toml")]
    with pytest.raises(UsageError) as error:
        overridden(tmp_path, "train.ema=2", file="[train]\nepochs = 0\n[data]\nwindow = 0\n")
    lines = sorted(str(error.value).splitlines())
    assert [line.partition(": ")[0] for line in lines] == ["--set"] + 2 * [str(tmp_path / "c.toml")]


def test_a_value_that_another_option_implies_is_blamed_on_that_option(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("")
    with pytest.raises(UsageError, match=r"^--nodes: "):
        settings_file.load(path, [settings_file.Override("train.processes=3", "--nodes")])


@pytest.mark.parametrize(
    ("override", "offered"),
    [
        ("train.optimizer=adam", "adamw"),
        ("frontend.augment=modren", "modern"),
        ("data.ledger=True", "true"),
        ("data.ledger=no", "false"),
        ("train.lr=0,05", "0.05"),
        ("train.lr=.05", "0.05"),
        ("train.epochs=3.0", "3"),
    ],
)
def test_a_value_that_is_nearly_right_is_answered_with_what_to_write(
    tmp_path: Path, override: str, offered: str
) -> None:
    with pytest.raises(UsageError) as error:
        overridden(tmp_path, override)
    assert re.search(rf"(did you mean|write) {re.escape(offered)}\b", str(error.value))


# --- presets of the front end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_same_in_a_file_and_by_set(tmp_path: Path, name: str) -> None:
    by_file = parsed({"frontend": {"augment": name}})
    assert by_file.frontend == preset(name)
    assert overridden(tmp_path, f"frontend.augment={name}") == by_file
    assert settings_file.from_overrides([f"frontend.augment={name}"]) == by_file


@pytest.mark.parametrize("order", [["frontend.augment=classic", "frontend.speed=0.1"], ["frontend.speed=0.1"], []])
def test_explicit_settings_override_the_preset_in_any_order(tmp_path: Path, order: list[str]) -> None:
    file = '[frontend]\nspeed = 0.1\naugment = "classic"\nmix_probability = 0.0\n'
    for overrides in (order, order[::-1]):
        found = overridden(tmp_path, *overrides, file=file).frontend
        assert found == preset("classic", speed=0.1, mix_probability=0.0)
        assert found.stretch_probability == 0.5


def test_a_preset_by_set_replaces_that_of_the_file_and_keeps_explicit_settings(tmp_path: Path) -> None:
    file = '[frontend]\naugment = "classic"\nstretch = 0.1\nfeatures = "mel32"\n'
    found = overridden(tmp_path, "frontend.augment=none", file=file).frontend
    assert found == preset("none", stretch=0.1, features="mel32")
    assert not found.augments


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    message = refusal({"frontend": {"augment": "modren"}})
    assert message.startswith("here.toml: frontend.augment: ")
    assert "'modren'" in message
    assert all(repr(name) in message for name in PRESETS)
    assert refusal({"frontend": {"augment": 3}}).startswith("here.toml: frontend.augment: ")
    assert refusal({"frontend": {"augment": True, "speed": "x"}}).count("\n") == 1  # both mistakes


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("changes", [{}, {"speed": 0.05, "noise_snr_db": (-3.5, 9.0), "mixup_probability": 1.0}])
def test_the_written_settings_of_a_preset_read_back_equal(name: str, changes: dict[str, object]) -> None:
    config = Config(frontend=preset(name, **changes))
    assert parsed(tomllib.loads(settings_file.to_toml(config))) == config


def test_another_preset_replaces_the_values_that_a_written_config_lists(tmp_path: Path) -> None:
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


def test_a_removed_setting_is_ignored_with_a_note_at_its_default_and_refused_otherwise(tmp_path: Path) -> None:
    path, notes = tmp_path / "config.toml", []
    path.write_text("[train]\nsync_batchnorm = false\nepochs = 7\n")
    assert settings_file.load(path, note=notes.append) == Config(train=TrainConfig(epochs=7))
    assert len(notes) == 1
    assert "train.sync_batchnorm" in notes[0]
    path.write_text("[train]\nsync_batchnorm = true\n")
    with pytest.raises(UsageError, match=r"train\.sync_batchnorm"):
        settings_file.load(path)
