"""The argument parser of `kws`: argparse, which also takes options and paths in any order, refuses an empty path, and
names the nearest command, option or choice for a mistyped one.

kws pack SRC --processes 2 DIR     kws pack -- -SRC DIR
kws trian -> did you mean train?     --procesess 2 -> did you mean --processes?     --set train.lr 0.05 -> what to type
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from kws.errors import close_names, did_you_mean

_CHOICE = re.compile(r"invalid choice: '?(.*?)'? \(choose from (.*)\)")
_NO_VALUE = re.compile(r"argument (--[a-z-]+): expected one argument")
_SETTING = re.compile(r"-*([a-z]+\.[a-z_]+)")
"""A setting where an option or a file belongs: data.shards=DIR without --set, --train.lr."""
_NUMBER = re.compile(r"-[\d.]")


class Parser(argparse.ArgumentParser):
    """argparse's parser with nearest names in its errors; the parsers of the commands are of this class too."""

    _in_any_order = False

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; exits with 2 and one line where the shell has split the value of a --set."""
        words = sys.argv[1:] if args is None else list(args)
        mistake = split_setting(words)
        if mistake:
            self.exit(2, f"kws: {mistake}\n")
        return super().parse_args(words, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, except that a command refuses unknown words itself: it has its options, and the parser of
        all commands, which would refuse them later, does not."""
        if self._subparsers is not None or self._in_any_order:
            return super().parse_known_args(args, namespace)
        # argparse itself takes SRC for all paths in SRC --processes 2 DIR, and then does not know DIR.
        self._in_any_order = True
        try:
            found, unknown = self.parse_known_intermixed_args(_without_separator(args), namespace)
        finally:
            self._in_any_order = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Prints usage and message with the nearest names; exits with 2."""
        super().error(message + self._hint(message))

    def _hint(self, message: str) -> str:
        if choice := _CHOICE.search(message):
            return did_you_mean(choice[1], re.findall(r"[^\s,']+", choice[2]))
        if option := _NO_VALUE.search(message):
            return f"; give it a value, one that begins with a dash as {option[1]}=-..."
        _, unrecognized, rest = message.partition("unrecognized arguments: ")
        if not unrecognized:
            return ""
        words = rest.split()
        if setting := _SETTING.match(words[0]):
            value = words[0].partition("=")[2] or (words[1] if len(words) > 1 else "VALUE")
            return f"; did you mean --set {setting[1]}={value}?"
        options = [word for word in words if word.startswith("-")]
        found = [self._nearest_option(option, words) for option in options]
        near = " ".join(text for text in found if text)
        return f"; did you mean {near}?" if near else ""

    def _nearest_option(self, option: str, words: Sequence[str]) -> str | None:
        """--procesess -> --processes; --epochs 3, which is a setting and no option -> --set train.epochs=3."""
        name, _, value = option.partition("=")
        options = [own for own in self._option_string_actions if own.startswith("--")]
        near = close_names(name, options, most=1)
        key = name.lstrip("-").replace("-", "_")
        keys = _keys_named(key) if "--set" in options else []
        if keys and (not near or keys[0].endswith(f".{key}")):
            following = words[words.index(option) + 1 : words.index(option) + 2]
            return f"--set {keys[0]}={value or (following[0] if following else 'VALUE')}"
        return near[0] if near else None


def path(text: str) -> Path:
    """A path of the command line. An empty one would be the current folder: perhaps a shell variable is not set."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path; is a variable of the shell not set? (. is the current folder)")
    return Path(text)


def add_command(commands: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """The parser of a command, which has --json and an example in its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=f"example: {example}"
    )
    parser.set_defaults(command=name)
    parser.add_argument("--json", action="store_true", help="print JSON for programs, one object per line")
    return parser


def _without_separator(words: Sequence[str]) -> list[str]:
    """The words without `--`, after which a path may begin with a dash: -a.wav becomes ./-a.wav."""
    if "--" not in words:
        return list(words)
    at = list(words).index("--")
    return [*words[:at], *(f"./{word}" if word.startswith("-") else word for word in words[at + 1 :])]


def split_setting(words: Sequence[str]) -> str | None:
    """What to type where the value of a --set stands apart: `--set train.lr 0.05`, `--set train.lr = 0.05`. None where
    all settings are whole."""
    for place, word in enumerate(words):
        setting, *rest = [*words[place + 1 : place + 4], ""]
        if word != "--set" or not setting or not rest[0]:
            continue
        is_open = "=" not in setting or (setting.endswith("=") and not _is_text(setting[:-1]))
        if rest[0].startswith("="):  # train.lr = 0.05, train.lr =0.05
            value = rest[0][1:] or rest[1]
        elif is_open and _is_value(rest[0]):
            value = rest[0]
        else:
            continue
        given = " ".join([setting, *([rest[0], rest[1]] if rest[0] == "=" else rest[:1])])
        return f"--set {given}: wanted one word, section.key=value; type --set {setting.rstrip('=')}={value}"
    return None


def _is_value(word: str) -> bool:
    return not word.startswith("-") or bool(_NUMBER.match(word))


def _keys_named(name: str) -> list[str]:
    """The settings whose last part has this name, or one that is close."""
    from kws import settings_file

    last_parts = {key.partition(".")[2]: key for key in reversed(settings_file.known_keys())}
    return [last_parts[near] for near in close_names(name, last_parts, most=1)]


def _is_text(key: str) -> bool:
    """Whether a setting takes any text, so that nothing after `=` is a value."""
    from kws import settings_file
    from kws.config import Config

    return isinstance(settings_file.flatten(Config()).get(key, ""), str)
