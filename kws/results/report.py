"""Run folders as pictures, terminal tables and one self-contained HTML page (reads files only; no models)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kws.errors import UsageError
from kws.results import records
from kws.results.cards import cards
from kws.results.formats import (
    CLASS_COLUMNS,
    PAIR_COLUMNS,
    class_cells,
    pair_cells,
    split_facts,
    split_name,
)  # fmt: skip
from kws.results.page import Facts, render, tiles
from kws.results.pictures import confusion_png, curves_png
from kws.results.plots import confusion, curves
from kws.results.records import Row, SamplingAudit, rows_of

if TYPE_CHECKING:
    from rich.table import Table


# --- terminal ----------------------------------------------------------------------------------------------


def class_table(result: Row) -> Table:
    """One line a class for the terminal, from a metrics.summarise_confusion."""
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


def write_report(run: Path, sampling: SamplingAudit | None = None) -> tuple[Path, Table]:
    """Writes RUN/report.html, one file that needs nothing from outside, and RUN/curves.png.

    Returns the page's path, and the run in a few figures for the terminal. Works on a run in any state: what is not
    there yet is left out. The page appears whole or not at all. Raises UsageError when `run` has no config.toml.
    """
    facts = _gather(run, sampling)
    page, waiting = run / "report.html", run / f".report.html.{os.getpid()}"
    waiting.write_bytes(render(facts).encode("utf-8", "replace"))
    waiting.replace(page)
    if facts.curves:
        (run / "curves.png").write_bytes(facts.curves)
    return page, _figures_table(facts)


def _gather(run: Path, sampling: SamplingAudit | None) -> Facts:
    config = run / "config.toml"
    if not config.is_file():
        wanted = "wanted a run folder, as `kws train` writes it"
        raise UsageError(f"{run}: found no config.toml; {wanted}. Type: kws report RUN, e.g. kws report runs/demo")
    lines = records.read_lines(run / "metrics.jsonl")
    events, results = records.without_repeats(lines), records.read_results(run)
    drawn = curves(events)
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
        sampling=sampling,
    )


def _figures_table(facts: Facts) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=Text(facts.name))
    for name, value, remark in tiles(facts):
        table.add_row(name, Text(value, style="bold"), Text(remark.replace("\u00a0", " ")))
    return table
