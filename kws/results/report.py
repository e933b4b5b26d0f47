"""Run folders as pictures, terminal tables and one self-contained HTML page (reads files only; no models)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kws.errors import UsageError
from kws.evaluation.sampling_audit import audit
from kws.results import records
from kws.results.cards import cards
from kws.results.page import (
    CLASS_COLUMNS,
    PAIR_COLUMNS,
    Facts,
    class_cells,
    number,
    pair_cells,
    render,
    split_facts,
    split_name,
    tiles,
)
from kws.results.pictures import confusion_png, curves_png, draw_confusion, draw_curves
from kws.results.plots import confusion, curves
from kws.results.records import Row, read_events, rows_of

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "class_table", "draw_confusion", "draw_curves", "epoch_table", "pair_table", "read_events", "result_line",
    "write_report",
]  # fmt: skip


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

    table = Table(title=Text(split_name(result)), header_style="bold")
    for index, name in enumerate(CLASS_COLUMNS):
        table.add_column(name, justify="left" if index in (0, 5) else "right")
    for cells in class_cells(result):
        table.add_row(*map(Text, cells))  # Text: a word such as "[red]" is no markup
    return table


def pair_table(result: Row) -> Table:
    """The words most often taken for one another, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="most confused", header_style="bold")
    for index, name in enumerate(PAIR_COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right")
    for cells in pair_cells(result):
        table.add_row(*map(Text, cells))
    return table


def result_line(result: Row) -> str:
    """An evaluation's figures in a line."""
    return f"{split_name(result)}: {'; '.join(split_facts(result))}"


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
    lines = records.read_lines(run / "metrics.jsonl")
    events, results = records.without_repeats(lines), records.read_results(run)
    drawn = curves(events)
    steps = [row["step"] for row in events if row["event"] in ("step", "epoch")]
    return Facts(
        name=run.resolve().name,
        config=config.read_text(encoding="utf-8", errors="replace"),
        run=records.read_json(run / "run.json"),
        status=records.read_status(run),
        epochs=rows_of(events, "epoch"),
        attempts=records.attempts(lines),
        results=results,
        curves=curves_png(events) if drawn else None,
        confusions=[confusion_png(result) for result in results],
        plots=[*drawn, *map(confusion, results)],
        mistakes=[cards(run, result) for result in results],
        sampling=audit(run, max(steps, default=0)),
    )


def _figures_table(facts: Facts) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=Text(facts.name))
    for name, value, remark in tiles(facts):
        table.add_row(name, Text(value, style="bold"), Text(remark.replace("\u00a0", " ")))
    return table
