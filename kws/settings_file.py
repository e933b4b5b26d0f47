"""Settings as TOML: reads a file and --set overrides into a Config, writes a Config, and compares two of them.

`load(path, overrides)` returns a `Config`, or raises a `UsageError` with one line for each mistake, which begins with
where the value came from: the file, or --set.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kws.config import PRESETS, Config, FrontEndConfig
from kws.errors import UsageError, did_you_mean, unreadable
from kws.renamed import BEFORE_SETTING, REMOVED_SETTINGS, RENAMED_VALUES, current_value, renamed_note

Note = Callable[[str], object]
"""Receives a line for the user."""


def _no_note(_: str) -> None:
    """Drops the line."""


@dataclasses.dataclass(frozen=True)
class Override:
    """`section.key=value`, and the option that it came from, for messages."""

    text: str
    origin: str = "--set"

    @property
    def key(self) -> str:
        """section.key"""
        return self.text.partition("=")[0].strip()


Origins = Mapping[str, Override]
"""section.key -> the override that set it."""


def load_recorded(path: Path) -> Config:
    """Reads the config.toml of a run folder, which lists all settings: those that it lacks did not exist yet."""
    config = load(path)
    recorded = tomllib.loads(path.read_text(encoding="utf-8"))
    keys = {f"{section}.{key}" for section, values in recorded.items() for key in values}
    absent = [f"{key}={value}" for key, value in BEFORE_SETTING.items() if key not in keys]
    return load(path, absent) if absent else config


def load(path: Path, overrides: Sequence[str | Override] = (), note: Note = _no_note) -> Config:
    """Reads the TOML file and applies `a.b=c` overrides. Raises UsageError with every mistake in it.

    `note` is called with a line for each old name or removed setting that was read (kws/renamed.py).
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(error, path, "wanted a TOML file, or a name that `kws configs` lists") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    origins = _apply(tree, overrides)
    return parse(tree, str(path), note, origins)


def from_overrides(overrides: Sequence[str]) -> Config:
    """The defaults with `a.b=c` overrides. Raises UsageError with every mistake in them."""
    tree: dict[str, Any] = {}
    origins = _apply(tree, overrides)
    return parse(tree, "--set", origins=origins)


def _apply(tree: dict[str, Any], given: Sequence[str | Override]) -> Origins:
    """Sets `a.b=c` in the tree. Returns which settings came from which override.

    Where an override chooses another preset, the values that the tree has from its present preset are removed first: a
    run's config.toml lists all settings, which would otherwise override the new preset.
    """
    overrides = [item if isinstance(item, Override) else Override(item) for item in given]
    frontend = tree.get("frontend", {})
    present = current_value("frontend.augment", frontend.get("augment")) if isinstance(frontend, dict) else None
    changes: dict[str, Any] = {}
    for override in overrides:
        _set(changes, override)
    wanted = current_value("frontend.augment", changes.get("frontend", {}).get("augment", present))
    if isinstance(present, str) and present in PRESETS and wanted != present:
        from_preset = json.loads(json.dumps(dataclasses.asdict(FrontEndConfig()) | PRESETS[present]))
        kept = ("features", "normalise")
        tree["frontend"] = {k: v for k, v in frontend.items() if k in kept or v != from_preset.get(k)}
    for override in overrides:
        _set(tree, override)
    return {override.key: override for override in overrides}


def parse(
    tree: Mapping[str, Any], where: str, note: Note = _no_note, origins: Origins = MappingProxyType({})
) -> Config:
    """A tree of plain values -> Config. `where` starts each line of an error, but for settings of `origins`; `note` is
    as for `load`."""
    tree = _with_preset(_with_current_values(_without_removed(tree, where, note), note))
    try:
        # As JSON, because strict validation accepts arrays for tuples only there.
        return TypeAdapter(Config).validate_json(json.dumps(_without_tilde(tree), default=str))
    except ValidationError as error:
        lines = [f"{place or where}: {line}" for item in error.errors() for place, line in _mistakes(item, origins)]
        raise UsageError("\n".join(lines)) from None


def _without_tilde(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of the tree with the home folder for ~ before a path: a shell leaves it in --set data.shards=~/x."""
    current = dict(tree)
    for section, name in (("data", "shards"), ("data", "task"), ("data", "cache_dir"), ("train", "init")):
        values = current.get(section)
        if isinstance(values, dict) and isinstance(value := values.get(name), str) and value.startswith("~"):
            current[section] = {**values, name: os.path.expanduser(value)}  # noqa: PTH111  # keeps what is no path
    train = current.get("train")
    if isinstance(train, dict) and "~" in str(teachers := train.get("teacher", "")):
        found = teachers.split(",") if isinstance(teachers, str) else teachers
        folders = [os.path.expanduser(part.strip()) if isinstance(part, str) else part for part in found]  # noqa: PTH111
        current["train"] = {**train, "teacher": folders}
    return current


def _without_removed(tree: Mapping[str, Any], where: str, note: Note) -> Mapping[str, Any]:
    """A copy of the tree without removed settings. Raises UsageError where one has a value that cannot be ignored."""
    current = dict(tree)
    for key, (ignored, reason) in REMOVED_SETTINGS.items():
        section, _, name = key.partition(".")
        values = current.get(section)
        if isinstance(values, dict) and name in values:
            if values[name] is not ignored:
                raise UsageError(f"{where}: {key} no longer exists: {reason}; remove it")
            current[section] = {k: v for k, v in values.items() if k != name}
            note(f"{key} no longer exists and is ignored: {reason}")
    return current


def _with_current_values(tree: Mapping[str, Any], note: Note) -> Mapping[str, Any]:
    """A copy of the tree in which old names of values are replaced; `note` is called for each."""
    current = dict(tree)
    for key in RENAMED_VALUES:
        section, _, name = key.partition(".")
        values = current.get(section)
        old = values.get(name) if isinstance(values, dict) else None
        new = current_value(key, old)
        if new != old:
            current[section] = {**values, name: new}  # type: ignore[dict-item]
            note(renamed_note(key, old))
    return current


def _with_preset(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tree with its preset's values where it sets none; unchanged where the preset is unknown (reported later)."""
    frontend = tree.get("frontend", {})
    name = frontend.get("augment") if isinstance(frontend, dict) else None
    if not isinstance(name, str) or name not in PRESETS:
        return tree
    return {**tree, "frontend": PRESETS[name] | frontend}


def _set(tree: dict[str, Any], override: Override) -> None:
    name, equals, value = override.text.partition("=")
    given = f"{override.origin} {override.text}"
    if not equals or not name.strip():
        raise UsageError(f"{given}: wanted section.key=value, such as --set train.lr=0.05")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value  # a bare word is a string: --set model.name=resnet32
    *sections, key = name.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{given}: {section} is a value, not a section")
    tree[key] = parsed


def _mistakes(item: Any, origins: Origins) -> Iterator[tuple[str, str]]:
    """The lines for one of pydantic's errors, each with the option that the value came from ("": the file): which
    setting, what was wanted, what was found."""
    path = ".".join(str(part) for part in item["loc"])
    # Of an array, the place of the wrong number follows the setting; of a union, the type that was tried.
    override = next((origins[key] for key in (path, *_parents(path)) if key in origins), None)
    origin = override.origin if override else ""
    if item["type"] == "unexpected_keyword_argument":
        yield origin, _unknown_key(path, override)
    elif item["type"] == "value_error":
        for message in item["msg"].removeprefix("Value error, ").split("\n"):
            yield _origin_of_check(path, message, origins), _failed_check(path, message, item["input"])
    else:
        yield origin, f"{path}: {item['msg']}, found {item['input']!r}{_hint(item)}"


def _parents(path: str) -> list[str]:
    """a.b.0 -> [a.b, a]"""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _unknown_key(path: str, override: Override | None) -> str:
    near = _closest_key(path)
    if not near:
        return f"unknown key {path}; the keys are {', '.join(known_keys())}"
    value = override.text.partition("=")[2].strip() if override else ""
    what_to_type = f" type --set {near}={value}" if "." in near and value else ""
    return f"unknown key {path}; did you mean {near}?{what_to_type}"


def _failed_check(path: str, message: str, values: Any) -> str:
    """The message of a check in kws/config.py, which begins with the settings concerned, and what was found there."""
    names = message.partition(":")[0].split(", ")
    found = ", ".join(f"{name} = {values[name]!r}" for name in names if name in values)
    return (f"{path}: " if path else "") + message + (f"; found {found}" if found else "")


def _origin_of_check(path: str, message: str, origins: Origins) -> str:
    """Where a value came from that the message of a check mentions: an override made it fail, as the file alone would
    be refused for its own values."""
    words = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)?", message))
    mentioned = words if not path else {f"{path}.{word}" for word in words} | words
    return next((override.origin for key, override in origins.items() if key in mentioned), "")


def _hint(item: Any) -> str:
    """What to write instead of a value of a wrong type, where that is plain; "" otherwise."""
    found, kind = item["input"], item["type"]
    if kind == "literal_error" and isinstance(found, str):
        return did_you_mean(found, re.findall(r"'([^']*)'", item["msg"]))
    if kind.startswith("bool") and str(found).lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return f"; write {'true' if str(found).lower() in ('true', 'yes', 'on', '1') else 'false'}"
    try:
        number = float(str(found).replace(",", "."))
    except ValueError:
        return ""
    if not math.isfinite(number) or isinstance(found, bool):
        return ""
    if kind.startswith("float"):
        return f"; write {number:g}"
    return f"; write {number:.0f}" if kind.startswith("int") and number.is_integer() else ""


def _closest_key(path: str) -> str | None:
    """The key or section that is most similar to `path`; a key also matches without its section."""
    keys = known_keys()
    sections = {key.partition(".")[0] for key in keys}
    if "." not in path:
        named = [key for key in keys if key.partition(".")[2] == path]
        return named[0] if named else next(iter(difflib.get_close_matches(path, sections, n=1, cutoff=0.5)), None)
    return next(iter(difflib.get_close_matches(path, keys, n=1, cutoff=0.5)), None)


def known_keys() -> list[str]:
    """All settings as `section.key`, sorted."""
    return sorted(flatten(Config()))


def flatten(config: Config) -> dict[str, Any]:
    """{"train.lr": 0.003, ...}"""
    tree = dataclasses.asdict(config)
    return {f"{section}.{key}": value for section, values in tree.items() for key, value in values.items()}


def to_toml(config: Config) -> str:
    """All settings as TOML; `parse` of it returns an equal Config."""
    return "\n".join(_lines(config))


def _lines(config: Config) -> Iterator[str]:
    for section, values in dataclasses.asdict(config).items():
        yield f"[{section}]"
        yield from (f"{key} = {_toml_value(value)}" for key, value in values.items())
        yield ""


def _toml_value(value: Any) -> str:
    # JSON's strings, finite numbers, booleans and arrays are also TOML, except surrogate pairs and an unescaped DEL.
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")


# Settings that may differ when a run resumes: they set where and how it runs, not what it computes. train.threads,
# data.task and train.teacher are among them because their outcome is compared instead, with run.json
# (kws/run/folder.py): a task's file or a teacher's folder may have moved.
FREE_TO_CHANGE = frozenset(
    {"data.shards", "data.task", "data.workers", "data.verify", "train.processes", "train.device", "train.eval_epochs"}
    | {"data.on_bad", "data.cache_dir", "data.cache_gb"}
    | {"train.allow_change", "train.init", "train.compile", "train.cuda_graphs", "train.gradient_checkpointing"}
    | {"train.threads", "train.save_minutes", "train.keep", "train.log_steps", "train.hang_s"}
    | {"train.log_minutes", "train.wandb", "train.profile", "train.teacher"}
)


# Settings that may differ when a run resumes if train.allow_change names them: they affect only further steps.
CHANGEABLE = frozenset(
    f"train.{name}"
    for name in (
        "epochs", "lr", "schedule", "warmup_epochs", "step_epochs", "factor", "patience", "weight_decay", "momentum",
        "nesterov", "label_smoothing", "clip_grad_norm", "stop_after", "precision", "channels_last", "deterministic",
        "valid_stream", "valid_stream_miss", "teacher_temperature", "teacher_weight",
    )
)  # fmt: skip


def differences(old: Config, new: Config) -> list[str]:
    """One line for each setting that differs although it must not when a run resumes.

    Raises UsageError where train.allow_change names a setting that does not exist or may never change.
    """
    allowed = {name.strip() for name in new.train.allow_change.split(",") if name.strip()}
    allowed = {name if "." in name else f"train.{name}" for name in allowed}
    for name in sorted(allowed - CHANGEABLE):
        raise UsageError(
            f"train.allow_change: {name} cannot change in a run; these can: "
            f"{', '.join(sorted(key.removeprefix('train.') for key in CHANGEABLE))}"
        )
    was, now = flatten(old), flatten(new)
    return [
        f"{key}: {was[key]!r} there, {now[key]!r} now"
        + (f" (train.allow_change={key.removeprefix('train.')} allows it)" if key in CHANGEABLE else "")
        for key in was
        if was[key] != now[key] and key not in FREE_TO_CHANGE | allowed
    ]
