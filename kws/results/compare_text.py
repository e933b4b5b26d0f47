"""A comparison of runs as terminal tables, Markdown and CSV, and as a picture of accuracy against parameters."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kws.errors import UsageError, cannot_write
from kws.results.compare import ComparedRun, Comparison
from kws.results.formats import number
from kws.results.records import Row
from kws.results.scatter import Dot, scatter_png
from kws.results.seed_groups import SeedGroup

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("comparison.md", "comparison.csv", "comparison.png")
COLUMNS = (
    "network", "run", "parameters", "mult-adds", "accuracy %", "95 %", "with crops %", "95 % crops", "reported %",
    "p", "clips/s", "hours", "on",
)  # fmt: skip


def cells(line: ComparedRun) -> tuple[str, ...]:
    """The texts of a run's row, one for each of COLUMNS."""
    result, crop, test = line.result, line.crop or {}, line.mcnemar
    return (
        line.network,
        str(line.run),
        number(result.get("parameters"), ","),
        _millions(result.get("multiply_adds")),
        _percent(result["accuracy"]),
        _interval(result),
        _percent(crop.get("accuracy")),
        _interval(crop),
        " / ".join(f"{value:.2f}" for value in (line.reported or ())[:2] if isinstance(value, float)) or "-",
        _probability(test.p) if test else "-",
        number(line.clips_per_s, ",.0f"),
        f"{line.hours:.2f}",
        line.hardware,
    )


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _interval(result: Row) -> str:
    if not result.get("interval95"):
        return "-"
    low, high = result["interval95"]
    return f"{100 * low:.2f} to {100 * high:.2f}"


def _millions(count: object) -> str:
    return f"{count / 1e6:,.1f} M" if isinstance(count, int) else "-"


def _probability(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def title(group: Sequence[ComparedRun]) -> str:
    """The test set of a group: split, size, corpus, task."""
    result = group[0].result
    corpus = str(result.get("corpus_id"))[:8]
    task = f"task {result.get('task', 'words')}, {len(result['classes'])} classes"
    return f"{result['split']} of corpus {corpus}: {result['n']:,} clips, {task}"


PAIRS = (
    ("network", "run"), ("parameters", "mult-adds"), ("accuracy %", "95 %"), ("with crops %", "95 % crops"),
    ("reported %", ""), ("p", ""), ("clips/s", "hours"),
)  # fmt: skip
"""In the terminal a cell holds two of COLUMNS, one below the other."""
SEED_TITLE = "runs that differ in train.seed alone"


def tables(found: Comparison) -> list[Table]:
    """Tables for the terminal, one per test set, without empty columns, each followed by that of its seeds."""
    by_test_set = zip(found.groups, found.seeds, strict=True)
    return [
        table for group, seeds in by_test_set for table in (_table(group), *([_seed_table(seeds)] if seeds else []))
    ]


SEED_COLUMNS = ("network", "runs", "seeds", "mean %", "deviation", "to the best", "95 %")


def seed_cells(group: SeedGroup[ComparedRun]) -> tuple[str, ...]:
    """The texts of a row for runs that differ in their seed alone, one for each of SEED_COLUMNS; accuracies in percent,
    differences in points."""
    apart = group.difference
    return (
        group.runs[0].network,
        ", ".join(line.run.resolve().name for line in group.runs),
        ", ".join(map(str, group.seeds)),
        _percent(group.mean),
        _percent(group.deviation),
        f"{100 * apart.value:+.2f}" if apart else "-",
        f"{100 * apart.low:+.2f} to {100 * apart.high:+.2f}" if apart else "-",
    )


def _seed_table(groups: Sequence[SeedGroup[ComparedRun]]) -> Table:
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(SEED_TITLE), header_style="bold", padding=(0, 0, 0, 1), box=HORIZONTALS, show_lines=True)
    table.add_column("\n".join(SEED_COLUMNS[:2]), overflow="fold")
    for name in SEED_COLUMNS[2:]:
        table.add_column(name, justify="right", no_wrap=True)
    for network, runs, *texts in map(seed_cells, groups):
        table.add_row(Text(f"{network}\n{runs}"), *map(Text, texts))
    return table


def _table(group: Sequence[ComparedRun]) -> Table:
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    # Only the folder's name, because paths are too long for 80 columns.
    rows = [dict(zip(COLUMNS, cells(line), strict=True)) | {"run": line.run.resolve().name} for line in group]
    pairs = [pair for pair in PAIRS if any(row[pair[0]] != "-" for row in rows)]
    table = Table(title=Text(title(group)), header_style="bold", padding=(0, 0, 0, 1), box=HORIZONTALS, show_lines=True)
    for pair in pairs:
        left = pair[0] == "network"
        name = "\n".join(pair).strip()
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in rows:
        table.add_row(*(Text("\n".join(row.get(name, "") for name in pair).strip()) for pair in pairs))
    return table


def notes(found: Comparison) -> list[str]:
    """Lines below the tables: sources, how to read p, and warnings."""
    every = [line for group in found.groups for line in group]
    lines = [f"reported: {source}" for source in sorted({line.reported.source for line in every if line.reported})]
    if any(line.mcnemar for line in every):
        lines.append(
            "p: McNemar's exact test against the best run on the same clips, two-sided, not corrected for the number "
            "of comparisons (of 20 equal runs, one is below 0.05 by chance)"
        )
    every_seed = [group for groups in found.seeds for group in groups]
    if any(group.difference for group in every_seed):
        lines.append(
            "deviation: standard deviation between the seeds; to the best: difference of the mean accuracies in "
            "points, paired by clip; its interval is for other seeds and other clips (Welch), and does not contain 0 "
            "where the groups differ"
        )
    for group in every_seed:
        lines += [
            f"{line.run}: not counted in the mean, another run has the same settings and the seed "
            f"{line.config.train.seed}"
            for line in group.repeated
        ]
    if len(found.groups) > 1:
        lines.append(f"{len(found.groups)} different test sets: accuracies of different tables cannot be compared")
    lines += [f"{line.run}: no McNemar's test: {line.untested}" for line in every if line.untested]
    stale = [line.run for line in every if line.stale]
    lines += [f"{run}: has a better checkpoint than the evaluated one; type kws evaluate {run}" for run in stale]
    return lines


def write_comparison(found: Comparison, folder: Path) -> None:
    """Writes FILES to the folder, which is created. Raises UsageError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILES[0]).write_text(markdown(found), encoding="utf-8", errors="backslashreplace")
        (folder / FILES[1]).write_text(as_csv(found), encoding="utf-8", errors="backslashreplace", newline="")
        (folder / FILES[2]).write_bytes(scatter_png(_dots(found)))
    except OSError as error:
        raise UsageError(cannot_write(folder, error, "use another --out")) from error


def markdown(found: Comparison) -> str:
    """The comparison as Markdown: one table per test set, and the notes."""
    parts = []
    for group, seeds in zip(found.groups, found.seeds, strict=True):
        parts.append(_markdown_table(f"### {title(group)}", COLUMNS, map(cells, group)))
        if seeds:
            parts.append(_markdown_table(f"#### {SEED_TITLE}", SEED_COLUMNS, map(seed_cells, seeds)))
    lines = (*notes(found), *(f"left out: {line}" for line in found.missing))
    return "\n\n".join([*parts, "\n".join(f"- {_markdown_cell(note)}" for note in lines)]).rstrip() + "\n"


def _markdown_table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([heading, "", *head, *("| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rows)])


def _markdown_cell(text: str) -> str:
    """Escapes what Markdown would read as a column, a tag or emphasis."""
    kept = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\|*_`[]" else letter for letter in kept)


def as_csv(found: Comparison) -> str:
    """The comparison as CSV with one line per run, and unformatted numbers."""
    rows = [_flat(row) for row in found.as_json()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: Row) -> Row:
    parts: Row = {}
    for key, value in row.items():
        named = value if isinstance(value, dict) else {"": value}
        if isinstance(value, list):
            named = {"low": value[0], "high": value[1]}
        parts |= {f"{key}_{name}".strip("_"): part for name, part in named.items()}
    return parts


def _dots(found: Comparison) -> list[Dot]:
    """One dot per run, named after its network, and also its run where several runs have the same network."""
    every = [(group, line) for group in found.groups for line in group]
    names = [line.network for _, line in every]
    return [
        Dot(
            name=line.network if names.count(line.network) == 1 else f"{line.network} ({line.run.name})",
            group=title(group),
            size=line.result.get("parameters") or 0,
            accuracy=line.result["accuracy"],
            interval=tuple(line.result["interval95"]),
        )
        for group, line in every
        if line.result.get("parameters")
    ]
