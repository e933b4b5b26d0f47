"""`kws settings`: every setting with its default, its choices and the explanation that stands below it in config.py.

kws/config.py (source) -> explanations by setting -> Setting -> a table, or JSON
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kws import config, settings_file
from kws.commands.terminal import OK, console
from kws.config import PRESETS, Config
from kws.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting. `wanted`: which values it takes. `presets`: its value in each preset of frontend.augment, for those
    that a preset sets. `resume`: whether it may differ when a run resumes (freely, with train.allow_change, never)."""

    name: str
    default: Any
    wanted: str
    text: str
    presets: dict[str, Any]
    resume: str

    def mentions(self, word: str) -> bool:
        """Whether the name, the values or the explanation contain the word."""
        return any(word.lower() in part.lower() for part in (self.name, self.wanted, self.text))


def settings(arguments: argparse.Namespace) -> int:
    """Lists the settings that mention all the given words."""
    found = find_settings(arguments.words)
    if arguments.json:
        for item in found:
            print(json.dumps(dataclasses.asdict(item)))
        return OK
    console().print(*_tables(found))
    print("in a config: [section] and then key = value; on the command line: --set section.key=value")
    return OK


def find_settings(words: Sequence[str] = ()) -> list[Setting]:
    """The settings that mention every word, in the order of config.py, but those first whose name has all the words.

    Raises UsageError with near names where there is none.
    """
    known = _all_settings()
    found = [item for item in known if all(item.mentions(word) for word in words)]
    found.sort(key=lambda item: not all(word.lower() in item.name for word in words))
    if not found:
        names = dict.fromkeys(word for item in known for word in (item.name, *re.split(r"[._]", item.name)))
        near = "".join(did_you_mean(word, names) for word in words)
        raise UsageError(
            f"settings {' '.join(words)}: no setting mentions this; kws settings without a word lists all{near}"
        )
    return found


@functools.cache
def _all_settings() -> list[Setting]:
    found = []
    for section in dataclasses.fields(Config):
        kind = type(getattr(Config(), section.name))
        hints, texts = typing.get_type_hints(kind), _explanations(kind)
        for field in dataclasses.fields(kind):
            name = f"{section.name}.{field.name}"
            found.append(
                Setting(
                    name, field.default, _wanted(hints[field.name]), texts[field.name], _in_presets(name), _resume(name)
                )
            )
    return found


@functools.cache
def _source_classes() -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(config))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _explanations(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass in config.py. Fields without one belong to the next field that has one:
    a probability and a range are explained together."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for node in _source_classes()[kind.__name__].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            waiting.append(node.target.id)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and waiting:
            text = " ".join(str(node.value.value).split())
            found |= dict.fromkeys(waiting, text)
            waiting = []
    return found | dict.fromkeys(waiting, "")


def _wanted(hint: Any) -> str:
    """float -> "a number"; Literal["a", "b"] -> "a, b"."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_wanted(part) for part in parts)
    if origin is tuple and Ellipsis in parts:
        return "a string, or a list of strings"
    if origin is tuple:
        return "[low, high]"
    return _TYPES.get(hint, str(hint))


def _in_presets(name: str) -> dict[str, Any]:
    section, _, key = name.partition(".")
    if section != "frontend" or not any(key in values for values in PRESETS.values()):
        return {}
    default = getattr(config.FrontEndConfig(), key)
    return {preset: values.get(key, default) for preset, values in PRESETS.items()}


def _resume(name: str) -> str:
    if name in settings_file.FREE_TO_CHANGE:
        return "freely"
    return "with train.allow_change" if name in settings_file.CHANGEABLE else "never"


def _tables(found: Sequence[Setting]) -> list[Table]:
    from rich.markup import escape
    from rich.table import Table

    table = Table("setting", "what it does; default; values")
    table.columns[0].no_wrap = True
    for number, item in enumerate(found):
        if number and item.name.partition(".")[0] != found[number - 1].name.partition(".")[0]:
            table.add_section()
        # Settings that are explained together: once, at the first of them.
        text = "the same" if number and item.text == found[number - 1].text else item.text
        facts = f"default {shown_value(item.default)}; {item.wanted}"
        table.add_row(item.name, f"{escape(text)}\n[dim]{escape(facts)}[/dim]")
    return [table, *_preset_table(found)]


def _preset_table(found: Sequence[Setting]) -> list[Table]:
    """What the presets of frontend.augment set: for those found, or for all where frontend.augment is among them."""
    from rich.table import Table

    everything = any(item.name == "frontend.augment" for item in found)
    rows = [item for item in (_all_settings() if everything else found) if item.presets]
    if not rows:
        return []
    table = Table("setting", *PRESETS, title="presets of frontend.augment")
    for item in rows:
        table.add_row(item.name, *(shown_value(value) for value in item.presets.values()))
    return [table]


def shown_value(value: Any) -> str:
    """A value as TOML has it."""
    return json.dumps(value, ensure_ascii=False)
