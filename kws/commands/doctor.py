"""`kws doctor`: the rows of an examination as a table or as JSON, and the exit code.

arguments -> examination (kws/doctor) -> rows -> table, on rank 0 -> 0, or 2 where a row is a problem
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from kws.commands.terminal import OK, USAGE, console, live_line
from kws.doctor.findings import Finding
from kws.doctor.rank_checks import Examined
from kws.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

_WIDE = 110
"""Columns from which `what to do` has a column of its own."""
_MOST_SECONDS = 3600
"""The longest --timeout: sockets and clocks refuse very large ones."""
_MARKS = {"not checked": "-"}
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "not checked": "dim"}


def doctor(arguments: argparse.Namespace) -> int:
    """Examines this machine, or all machines of a launcher, and shows what was found."""
    from kws.distributed import parent_death
    from kws.doctor import examination
    from kws.doctor.identity import Identity

    parent_death.end_with_launcher()
    examined = _examined(arguments)
    identity = Identity.from_environment()
    with live_line() if identity.rank == 0 else nullcontext(print) as show:
        answers = examination.examine(examined, identity, lambda text: show(f"checking: {text}"))
    if answers is None:
        return OK  # rank 0 prints, and its exit code counts
    rows = examination.findings(answers)
    if arguments.json:
        found = [dataclasses.asdict(row) for row in rows]
        print(json.dumps({"ok": _code(rows) == OK, "findings": found, "answers": examination.as_json(answers)}))
    else:
        out = console()
        out.print(table(rows, out.width))
        print(_last_line(rows))
    return _code(rows)


def _examined(arguments: argparse.Namespace) -> Examined:
    from kws import settings_file, shipped_files
    from kws.models import names

    if not 0 < arguments.timeout <= _MOST_SECONDS:  # nan compares as False
        raise UsageError(f"--timeout {arguments.timeout:g}: wanted more than 0 and at most {_MOST_SECONDS} seconds")
    runs = Path(os.environ.get("KWS_RUNS", "runs"))
    if arguments.config is None:
        if arguments.set:
            raise UsageError("--set: overrides a setting of a config; wanted kws doctor CONFIG --set ...")
        return Examined(run=arguments.run or runs, limit_s=arguments.timeout)
    path = shipped_files.find_config(arguments.config)
    config = settings_file.load(path, arguments.set)
    names.refuse_unknown(config.model.name)
    return Examined(
        run=arguments.run or runs / path.stem, config=config, path=path, overrides=tuple(arguments.set),
        limit_s=arguments.timeout,
    )  # fmt: skip


def _code(rows: Sequence[Finding]) -> int:
    return USAGE if any(row.verdict == "problem" for row in rows) else OK


def table(rows: Sequence[Finding], width: int) -> Table:
    """A row for each check. Where the terminal is narrow, what to do is below what is wanted."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    is_wide = width >= _WIDE
    last = ("wanted", "what to do") if is_wide else ("wanted -> what to do",)
    found = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1), pad_edge=False)
    found.add_column("check", max_width=14)
    found.add_column("", no_wrap=True)
    for name in ("found", *last):
        found.add_column(name, overflow="fold", ratio=2 if is_wide and name == "wanted" else 3)
    for row in rows:
        advice = [row.wanted, row.advice] if is_wide else [_joined(row)]
        verdict = Text(_MARKS.get(row.verdict, row.verdict), style=_STYLES[row.verdict])
        found.add_row(Text(row.check, style="bold"), verdict, Text(_found(row)), *map(Text, advice))
    return found


def _found(row: Finding) -> str:
    return f"not checked: {row.found}" if row.verdict == "not checked" else row.found


def _joined(row: Finding) -> str:
    arrow = f"-> {row.advice}" if row.advice else ""
    return "\n".join(filter(None, (row.wanted, arrow)))


def _last_line(rows: Sequence[Finding]) -> str:
    problems = [row.check for row in rows if row.verdict == "problem"]
    warnings = [row.check for row in rows if row.verdict == "warning"]
    if problems:
        return f"{len(problems)} to fix before a training: {', '.join(problems)}"
    return f"ready; worth a look: {', '.join(warnings)}" if warnings else "ready"
