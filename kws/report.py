"""Run folders as pictures, terminal tables and one self-contained HTML page (reads files only; no models)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kws.errors import UsageError
from kws.report_page import CLASS_COLUMNS, Attempt, Facts, Row, class_cells, number, render, tiles
from kws.report_pictures import confusion_png, confusion_title, curves_png, draw_confusion, draw_curves, rows_of

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["class_table", "draw_confusion", "draw_curves", "epoch_table", "read_events", "write_report"]


# --- reading -----------------------------------------------------------------------------------------------


def read_events(path: Path) -> list[Row]:
    """The events of a metrics.jsonl in file order, each step and each epoch once.

    A resumed run repeats steps: rows of earlier attempts beyond the step it resumed from are dropped, and of
    two rows for one step (or one epoch) the later wins. start and end events all stay. Lines that are no
    JSON event are skipped, as is the half line a killed run leaves. A missing file gives [].
    """
    return _without_repeats(_read_lines(path))


def _read_lines(path: Path) -> list[Row]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows = (_parse(line) for line in lines)
    return [row for row in rows if row is not None]


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    # Every event that is placed on an axis needs its step, and an epoch row its epoch.
    needed = {"start": ("step",), "step": ("step",), "epoch": ("step", "epoch"), "end": ()}
    if not isinstance(row, dict) or row.get("event") not in needed:
        return None
    return row if all(isinstance(row.get(key), int) for key in needed[row["event"]]) else None


def _without_repeats(rows: Iterable[Row]) -> list[Row]:
    kept: dict[tuple[str, int], Row] = {}
    for order, row in enumerate(rows):
        kind = row["event"]
        if kind == "start":
            # The row at the very step resumed from stays until it is repeated: it may be the epoch that
            # ended with the checkpoint, which the new attempt does not write again.
            kept = {key: old for key, old in kept.items() if not _undone(old, row["step"])}
        key = (kind, row[kind] if kind in ("step", "epoch") else order)
        kept.pop(key, None)  # so that the later row also takes the later place
        kept[key] = row
    return list(kept.values())


def _undone(row: Row, resumed_at: int) -> bool:
    return row["event"] in ("step", "epoch") and (row["step"] > resumed_at or resumed_at == 0)


def _read_json(path: Path) -> Row:
    """The object in a JSON file, or {} where there is none yet or it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_results(run: Path) -> list[Row]:
    """The readable eval/*.json, test first."""
    results = [{"split": path.stem, **_read_json(path)} for path in sorted(run.glob("eval/*.json"))]
    order = {"test": 0, "valid": 1, "train": 3}
    return sorted(filter(_whole, results), key=lambda result: order.get(str(result["split"]), 2))


def _whole(result: Row) -> bool:
    try:
        return bool(result["classes"]) and np.shape(result["confusion"]) == (len(result["classes"]),) * 2
    except (KeyError, TypeError, ValueError):  # missing, of another type, ragged
        return False


# --- terminal ----------------------------------------------------------------------------------------------


def epoch_table(events: Sequence[Row]) -> Table:
    """One line an epoch for the terminal; the best valid accuracy so far is bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = rows_of(events, "epoch")
    best = max((row.get("valid_accuracy") or 0 for row in rows), default=0)
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    columns = {"epoch": "d", "step": ",d", "train_loss": ".4f", "train_accuracy": ".2%", "valid_loss": ".4f"}
    columns |= {"valid_accuracy": ".2%", "lr": ".2e", "seconds": ".1f", "clips_per_s": ",.0f"}
    for name in columns:
        header = name.replace("_per_", "_/_").replace("_", "\n", 1).replace("_", " ")
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        style = "bold" if best and row.get("valid_accuracy") == best else None
        table.add_row(*(number(row.get(name), form) for name, form in columns.items()), style=style)
    return table


def class_table(result: Row) -> Table:
    """One line a class for the terminal, from a metrics.summary."""
    from rich.table import Table
    from rich.text import Text

    title = confusion_title(result).replace("\n", ", ")
    table = Table(title=Text(title), header_style="bold")
    for index, name in enumerate(CLASS_COLUMNS):
        table.add_column(name, justify="left" if index in (0, 5) else "right")
    for cells in class_cells(result):
        table.add_row(*map(Text, cells))  # Text: a word such as "[red]" is no markup
    return table


# --- page --------------------------------------------------------------------------------------------------


def write_report(run: Path) -> tuple[Path, Table]:
    """Writes RUN/report.html, one file that needs nothing from outside, and RUN/curves.png.

    Returns the page's path, and the run in a few figures for the terminal. Works on a run in any state: what is not
    there yet is left out. The page appears whole or not at all. Raises UsageError when `run` has no config.toml.
    """
    facts = _gather(run)
    page, waiting = run / "report.html", run / f".report.html.{os.getpid()}"
    waiting.write_bytes(render(facts).encode("utf-8", "replace"))
    waiting.replace(page)
    if facts.curves:
        (run / "curves.png").write_bytes(facts.curves)
    return page, _figures_table(facts)


def _gather(run: Path) -> Facts:
    config = run / "config.toml"
    if not config.is_file():
        wanted = "wanted a run folder, as `kws train` writes it"
        raise UsageError(f"{run}: found no config.toml; {wanted}. Type: kws report RUN, e.g. kws report runs/demo")
    lines = _read_lines(run / "metrics.jsonl")
    events, results = _without_repeats(lines), _read_results(run)
    return Facts(
        name=run.resolve().name,
        config=config.read_text(encoding="utf-8", errors="replace"),
        run=_read_json(run / "run.json"),
        status=_read_json(run / "status.json"),
        epochs=rows_of(events, "epoch"),
        attempts=_attempts(lines),
        results=results,
        curves=curves_png(events) if rows_of(events, "step") or rows_of(events, "epoch") else None,
        confusions=[confusion_png(result) for result in results],
    )


def _figures_table(facts: Facts) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=Text(facts.name))
    for name, value, remark in tiles(facts):
        table.add_row(name, Text(value, style="bold"), Text(remark.replace("\u00a0", " ")))
    return table


def _attempts(lines: Sequence[Row]) -> list[Attempt]:
    """Starts and how far each came. From all lines: the rows a resume undid were still worked for."""
    stretches: list[list[Row]] = []
    for row in lines:
        if row["event"] == "start":
            stretches.append([])
        if stretches:
            stretches[-1].append(row)
    return [_attempt(rows, count) for count, rows in enumerate(stretches, 1)]


def _attempt(rows: Sequence[Row], count: int) -> Attempt:
    times = [row["time"] for row in rows if isinstance(row.get("time"), int | float)]
    ends = rows_of(rows, "end")
    return Attempt(
        number=rows[0].get("attempt") or count,
        began=rows[0].get("time"),
        seconds=max(times) - min(times) if times else 0.0,
        world_size=rows[0].get("world_size"),
        first=rows[0]["step"],
        last=max(row["step"] for row in rows if isinstance(row.get("step"), int)),
        end=str(ends[-1].get("state")) if ends else None,
    )
