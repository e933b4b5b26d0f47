"""`kws configs`: the configs, accelerate files and SLURM scripts that come with kws, and copies of them.

configs/quick.toml -> its header comment -> ShippedConfig -> a table, JSON, or a copy in a folder of one's own
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from kws import shipped_files
from kws.commands import slurm_submit
from kws.commands.terminal import OK, console
from kws.errors import UsageError, cannot_write, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

_PATTERNS = {"configs": ("*.toml",), "launch": ("*.yaml",), "slurm": ("*.sbatch", "start.sh")}
"""Folder of the shipped files -> the files in it that are listed and copied."""
_ENTRY = re.compile(r"# *(command|hardware|time|hours|score) {2,}(.*)")


@dataclasses.dataclass(frozen=True)
class ShippedFile:
    """A file that comes with kws, with the text of its header comment; `network` is "" for all but configs."""

    name: str
    path: Path
    about: str
    network: str = ""
    hardware: str = ""
    time: str = ""
    score: str = ""


def configs(arguments: argparse.Namespace) -> int:
    """Lists the shipped files, or copies them."""
    kind = "launch" if arguments.launch else "slurm" if arguments.slurm else "configs"
    found = find_files(kind, arguments.names)
    if arguments.copy:
        copied = copy_files(found, arguments.copy)
        if arguments.json:
            print(json.dumps({"copied": [str(path) for path in copied]}))
        else:
            print(_next_line(kind, arguments.copy, copied))
    elif arguments.json:
        print(json.dumps([dataclasses.asdict(item) | {"path": str(item.path)} for item in found]))
    else:
        console().print(files_table(kind, found))
        print(f"{shipped_files.folder(kind)}: {len(found)} files; your own copies: {_copy_command(arguments, kind)}")
        if kind == "configs" and not arguments.names:
            print("to begin with: kws train quick --set data.shards=DIR")
    return OK


def find_files(kind: str, names: Sequence[str] = ()) -> list[ShippedFile]:
    """The shipped files of a kind that match any of the names (with or without ending, * matches anything), sorted.

    Raises UsageError where a name matches none, and where kws was installed without them.
    """
    folder = shipped_files.folder(kind)
    paths = sorted(path for pattern in _PATTERNS[kind] for path in folder.glob(pattern))
    if not paths:
        raise UsageError(f"{folder}: holds no shipped files; install kws again, with pip from its wheel or checkout")
    known = [_short_name(path) for path in paths]
    for name in names:
        if not any(_matches(path, name) for path in paths):
            raise UsageError(
                f"kws configs {name}: no such file; the names are {_some(known)}{did_you_mean(name, known)}"
            )
    return [_describe(path) for path in paths if not names or any(_matches(path, name) for name in names)]


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f", and {len(names) - most} more that `kws configs` lists" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _short_name(path: Path) -> str:
    return path.name.removesuffix(".toml").removesuffix(".yaml")


def _matches(path: Path, name: str) -> bool:
    return any(fnmatch(own, name) for own in (path.name, _short_name(path)))


def _describe(path: Path) -> ShippedFile:
    text = path.read_text(encoding="utf-8")
    header = [line for line in _header(text) if not line.startswith("#!")]
    entries = {found[1]: found[2].strip() for line in header if (found := _ENTRY.fullmatch(line))}
    first_paragraph = itertools.takewhile(lambda line: line.strip("# ") and not line.startswith("#  "), header)
    about = " ".join(line.strip("# ") for line in first_paragraph).partition(". ")[0].rstrip(".:")
    network = tomllib.loads(text).get("model", {}).get("name", "") if path.suffix == ".toml" else ""
    time = entries.get("time") or (f"{entries['hours']} h" if "hours" in entries else "")
    return ShippedFile(
        _short_name(path), path, about, network, entries.get("hardware", ""), time, entries.get("score", "")
    )


def expectation(path: Path) -> str:
    """What the header of a config promises, as a line; "" where it has neither a time nor a score."""
    found = _describe(path)
    promised = [f"{name}: {value}" for name, value in (("score", found.score), ("time", found.time)) if value]
    return f"expected, by the header of {path.name}: {'; '.join(promised)}" if promised else ""


def _header(text: str) -> list[str]:
    """The comment lines at the head of a file."""
    return list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))


def files_table(kind: str, found: Sequence[ShippedFile]) -> Table:
    """The files with one row each; fits into 80 columns."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("config", "network", "what for") if kind == "configs" else Table("file", "what for")
    table.columns[0].no_wrap = True
    for item in found:
        network = [item.network] if kind == "configs" else []
        table.add_row(item.name if kind == "configs" else item.path.name, *network, escape(item.about))
    return table


def copy_files(found: Sequence[ShippedFile], folder: Path) -> list[Path]:
    """Copies the files into `folder`. Returns the copies. Raises UsageError where one of them exists there already with
    other content, before anything is written; a copy that is equal is kept."""
    copies = {folder / item.path.name: _content(item.path, folder) for item in found}
    changed = [path for path, content in copies.items() if _differs(path, content)]
    if changed:
        more = f" and {len(changed) - 1} more files" if len(changed) > 1 else ""
        raise UsageError(
            f"{changed[0]}{more}: exists already, with other content; nothing was copied; give another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in copies.items():
            path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UsageError(cannot_write(folder, error, "give another folder")) from error
    return list(copies)


def _content(path: Path, folder: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return slurm_submit.with_places(text, folder) if path.suffix == ".sbatch" else text


def _differs(path: Path, content: str) -> bool:
    """Whether a file, or anything else, is in the way of a copy with this content."""
    return path.exists() and not (path.is_file() and path.read_bytes() == content.encode())


def _copy_command(arguments: argparse.Namespace, kind: str) -> str:
    option = f" --{kind}" if kind != "configs" else ""
    return shlex.join(["kws", "configs", *arguments.names]) + f"{option} --copy {kind}"


def _next_line(kind: str, folder: Path, copied: Sequence[Path]) -> str:
    count = f"{len(copied)} file{'s' if len(copied) > 1 else ''}"
    example = copied[0] if len(copied) == 1 else folder / {"configs": "quick.toml", "launch": "cpu2.yaml"}.get(kind, "")
    command = {
        "configs": f"kws train {example} --set data.shards=DIR",
        "launch": f"accelerate launch --config_file {example} -m kws train quick --set data.shards=DIR",
        "slurm": f"sbatch {folder}/train.sbatch CONFIG --set data.shards=DIR",
    }[kind]
    return f"{folder}: {count}; next: edit what you need, then {command}"
