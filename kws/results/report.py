"""A run's results as terminal tables and as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kws import files
from kws.results import open_set, records
from kws.results.confusion_picture import confusion_png
from kws.results.formats import (
    CLASS_COLUMNS,
    PAIR_COLUMNS,
    class_cells,
    pair_cells,
    result_figures,
    split_name,
)  # fmt: skip
from kws.results.hints import hints
from kws.results.mistake_cards import mistake_cards
from kws.results.page import PageContent, render, tiles
from kws.results.plots import confusion_matrix, training_curves
from kws.results.records import Row, SamplingAudit, rows_of
from kws.results.spot_section import spot_sections
from kws.results.time_use import read_time_use
from kws.run import folder as run_folder

if TYPE_CHECKING:
    from rich.table import Table


# --- terminal ----------------------------------------------------------------------------------------------


def class_table(result: Row) -> Table:
    """An evaluation's classes as a terminal table."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(split_name(result)), header_style="bold")
    for index, name in enumerate(CLASS_COLUMNS):
        table.add_column(name, justify="left" if index in (0, 5) else "right", overflow="fold")
    for cells in class_cells(result):
        table.add_row(*map(Text, cells))  # Text, so that a word such as "[red]" is not read as markup
    return table


def pair_table(result: Row) -> Table | str:
    """The most confused pairs of words as a terminal table; a line where no word was confused."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="most confused", header_style="bold")
    for index, name in enumerate(PAIR_COLUMNS):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold")
    for cells in pair_cells(result):
        table.add_row(*map(Text, cells))
    return table if table.row_count else "no word was taken for another"


def open_set_table(result: Row) -> Table | str:
    """What share of other sounds is taken for a word, as a terminal table; "" where the result does not have it."""
    from rich.table import Table
    from rich.text import Text

    if not open_set.has_open_set(result):
        return ""
    table = Table(title="open set: share taken for a word (95 % interval)", header_style="bold")
    for name in open_set.open_set_columns(result):
        table.add_column(Text(name), justify="right", overflow="fold")  # Text: names may look like markup
    for cells in open_set.open_set_cells(result):
        table.add_row(*map(Text, cells))
    table.caption = Text(open_set.silence_line(result))
    return table


def result_line(result: Row) -> str:
    """An evaluation's figures in one line."""
    return f"{split_name(result)}: {'; '.join(result_figures(result))}"


# --- page --------------------------------------------------------------------------------------------------


def write_report(run: Path, sampling: SamplingAudit | None = None) -> tuple[Path, Table]:
    """Writes RUN/report.html, a single file that needs no other and no network.

    Returns its path, and a terminal table of the main figures. Works on a run in any state: what the run does not have
    yet is left out. Raises UsageError where `run` has no config.toml.
    """
    content = _read_run(run, sampling)
    page = run / "report.html"
    files.write_bytes(page, render(content).encode("utf-8", "replace"))
    return page, _figures_table(content)


def _read_run(run: Path, sampling: SamplingAudit | None) -> PageContent:
    config = run_folder.find_settings(run)
    lines = records.read_lines(run / "metrics.jsonl")
    events, results = records.without_repeats(lines), records.read_results(run)
    facts, epochs = records.read_json(run / "run.json"), rows_of(events, "epoch")
    settings = config.read_text(encoding="utf-8", errors="replace")
    return PageContent(
        name=run.resolve().name,
        config=settings,
        run=facts,
        status=records.read_status(run),
        epochs=epochs,
        attempts=records.attempts(lines),
        results=results,
        confusions=[confusion_png(result) for result in results],
        mistakes=[mistake_cards(run, result) for result in results],
        curves=training_curves(events),
        matrices=[confusion_matrix(result) for result in results],
        spots=spot_sections(run),
        hints=hints(facts, epochs, results, settings),
        sampling=sampling,
        time_use=read_time_use(run, events),
    )


def _figures_table(content: PageContent) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=Text(content.name))
    for name, value, remark in tiles(content):
        table.add_row(name, Text(value, style="bold"), Text(remark.replace("\u00a0", " ")))
    return table
