"""Several runs side by side: what each network costs, how well it does, how fast and how long it was trained.

RUN/{config.toml, run.json, metrics.jsonl, eval/SPLIT*.json, eval/SPLIT.clips.npz} -> rows -> table, Markdown, CSV, PNG

Only runs that were evaluated on the very same clips are set against each other: rows are grouped by test set, and
McNemar's test is made within a group, of each run against the group's best.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kws import metrics, published, records, runfolder
from kws.errors import UsageError
from kws.published import Published
from kws.records import Row
from kws.report_page import number
from kws.scatter import Dot, scatter_png

if TYPE_CHECKING:
    from rich.table import Table

FILES = ("comparison.md", "comparison.csv", "comparison.png")


@dataclasses.dataclass(frozen=True)
class McNemar:
    """A run against the best of its group: clips that only one of them got right, and the test's probability."""

    against: Path
    only_this: int
    only_other: int
    p: float


@dataclasses.dataclass(frozen=True)
class Line:
    """One run. Accuracies are fractions, `interval` 95 %; None where nothing is known."""

    run: Path
    network: str
    result: Row
    crop: Row | None
    clips_per_s: float | None
    hours: float
    hardware: str
    reported: Published | None
    stale: bool
    """Whether the run has a better checkpoint than the one that was evaluated."""
    mcnemar: McNemar | None = None
    untested: str = ""
    """Why there is no McNemar's test, where one was due."""

    @property
    def test_set(self) -> tuple[object, ...]:
        """Equal for runs evaluated on the same clips of the same classes."""
        return tuple(self.result.get(key) for key in ("split", "corpus_id", "n")) + tuple(self.result["classes"])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Groups of runs on the same test set, the best first; and what to type for those that were left out."""

    groups: tuple[tuple[Line, ...], ...]
    missing: tuple[str, ...]

    def as_json(self) -> list[Row]:
        """An object a run."""
        return [{"test_set": place, **_json_of(line)} for place, group in enumerate(self.groups, 1) for line in group]


# --- reading ---------------------------------------------------------------------------------------------------


def compare(runs: Sequence[Path], split: str = "test") -> Comparison:
    """The runs' rows. Raises UsageError for a folder that is no run, and where no run has been evaluated."""
    lines, missing = [], []
    for run in dict.fromkeys(runs):
        network = runfolder.read_config(run).model.name
        result = records.read_json(run / "eval" / f"{split}.json")
        if records.is_whole(result) and "corpus_id" in result:
            lines.append(_line(run, network, result, split))
        else:
            option = "" if split == "test" else f" --split {split}"
            missing.append(f"{run}: not evaluated on {split} yet; type: kws evaluate {run}{option}")
    if not lines:
        raise UsageError("; ".join(missing))
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in sorted(lines, key=lambda line: -line.result["accuracy"]):
        groups.setdefault(line.test_set, []).append(line)
    return Comparison(tuple(map(_tested, groups.values())), tuple(missing))


def _line(run: Path, network: str, result: Row, split: str) -> Line:
    lines = records.read_lines(run / "metrics.jsonl")
    speeds = [row["clips_per_s"] for row in records.rows_of(lines, "epoch") if row.get("clips_per_s")]
    crop = records.read_json(run / "eval" / f"{split}-crop.json")
    same = records.is_whole(crop) and crop.get("checkpoint") == result.get("checkpoint")
    return Line(
        run=run,
        network=network,
        result=result,
        crop=crop if same else None,
        clips_per_s=median(speeds) if speeds else None,
        hours=sum(attempt.seconds for attempt in records.attempts(lines)) / 3600,
        hardware=_hardware(records.read_json(run / "run.json")),
        reported=published.figure(network, len(result["classes"]), result["n"]) if split == "test" else None,
        stale=records.pointed_to(run, "best_accuracy") not in (None, result.get("checkpoint")),
    )


def _hardware(facts: Row) -> str:
    """Such as `2 x cpu`."""
    ranks = facts.get("ranks") or [{}]
    return f"{len(ranks)} x {ranks[0].get('device', '?')}"


def _tested(group: Sequence[Line]) -> tuple[Line, ...]:
    """The group with McNemar's test of each against the first."""
    if len(group) == 1:
        return tuple(group)
    best, first = group[0], _right_of(group[0])
    found = [best]
    for line in group[1:]:
        own = _right_of(line)
        if first is None or own is None or not np.array_equal(first[0], own[0]):
            why = "the clips' own results are missing or others; type: kws evaluate"
            found.append(dataclasses.replace(line, untested=f"{why} {best.run} {line.run}"))
            continue
        ours, theirs = int((own[1] & ~first[1]).sum()), int((first[1] & ~own[1]).sum())
        test = McNemar(best.run, ours, theirs, metrics.mcnemar(ours, theirs))
        found.append(dataclasses.replace(line, mcnemar=test))
    return tuple(found)


def _right_of(line: Line) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]] | None:
    """Every clip's (id, truth) and whether it was recognised; None where they are not those of the summary."""
    path = line.run / "eval" / f"{line.result['split']}.clips.npz"
    try:
        with path.open("rb") as file, np.load(file) as clips:  # numpy leaves a file open that is none of its own
            asked = np.stack([clips["clips"], clips["truth"]])
            right = clips["probabilities"].argmax(axis=1) == clips["truth"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return (asked, right) if int(right.sum()) == int(np.trace(line.result["confusion"])) else None


# --- showing ---------------------------------------------------------------------------------------------------

COLUMNS = (
    "network", "run", "parameters", "mult-adds", "accuracy %", "95 %", "with crops %", "95 % crops", "reported %",
    "p", "clips/s", "hours", "on",
)  # fmt: skip


def cells(line: Line) -> tuple[str, ...]:
    """A row of texts, one for each of COLUMNS."""
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


def title(group: Sequence[Line]) -> str:
    """Which test set: split, size, corpus."""
    result = group[0].result
    corpus = str(result.get("corpus_id"))[:8]
    return f"{result['split']} of corpus {corpus}: {result['n']:,} clips, {len(result['classes'])} classes"


PAIRS = (
    ("network", "run"), ("parameters", "mult-adds"), ("accuracy %", "95 %"), ("with crops %", "95 % crops"),
    ("reported %", ""), ("p", ""), ("clips/s", "hours"),
)  # fmt: skip
"""In a terminal a cell holds two of COLUMNS, one below the other."""


def tables(found: Comparison) -> list[Table]:
    """For the terminal, a table a test set, without the columns in which nothing stands."""
    return [_table(group) for group in found.groups]


def _table(group: Sequence[Line]) -> Table:
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text

    # The folder's name: a path would take the room of the figures.
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
    """What must be said beside the tables."""
    every = [line for group in found.groups for line in group]
    said = [f"reported: {source}" for source in sorted({line.reported.source for line in every if line.reported})]
    if any(line.mcnemar for line in every):
        said.append(
            "p: against the best, by McNemar's exact test on the same clips, two-sided, each by itself (below 0.05 "
            "by chance once in 20 comparisons)"
        )
    if len(found.groups) > 1:
        said.append(f"{len(found.groups)} different test sets: accuracies of different tables do not compare")
    said += [f"{line.run}: no McNemar's test: {line.untested}" for line in every if line.untested]
    stale = [line.run for line in every if line.stale]
    said += [f"{run}: its best checkpoint is another by now; type: kws evaluate {run}" for run in stale]
    return said


def write(found: Comparison, folder: Path) -> None:
    """FILES into the folder, which is made. Raises UsageError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILES[0]).write_text(markdown(found), encoding="utf-8", errors="backslashreplace")
        (folder / FILES[1]).write_text(as_csv(found), encoding="utf-8", errors="backslashreplace", newline="")
        (folder / FILES[2]).write_bytes(scatter_png(_dots(found)))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); use another --out") from error


def markdown(found: Comparison) -> str:
    """A table a test set, and the notes."""
    parts = []
    for group in found.groups:
        head = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        rows = ["| " + " | ".join(map(_markdown_cell, cells(line))) + " |" for line in group]
        parts.append("\n".join([f"### {title(group)}", "", *head, *rows]))
    said = (*notes(found), *(f"left out: {line}" for line in found.missing))
    return "\n\n".join([*parts, "\n".join(f"- {_markdown_cell(note)}" for note in said)]).rstrip() + "\n"


def _markdown_cell(text: str) -> str:
    """A name is text: neither a column, nor a tag, nor emphasis."""
    kept = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\|*_`[]" else letter for letter in kept)


def as_csv(found: Comparison) -> str:
    """A line a run, numbers as numbers."""
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


def _json_of(line: Line) -> Row:
    result, crop = line.result, line.crop or {}
    same = ("split", "corpus_id", "n", "parameters", "multiply_adds", "accuracy", "interval95", "macro_accuracy")
    found: Row = {"run": str(line.run), "network": line.network, "classes": len(result["classes"])}
    found |= {key: result.get(key) for key in same} | {f"crop_{key}": crop.get(key) for key in same[5:7]}
    found |= {"clips_per_s": line.clips_per_s, "hours": line.hours, "hardware": line.hardware, "stale": line.stale}
    if line.mcnemar:
        found["mcnemar"] = dataclasses.asdict(line.mcnemar) | {"against": str(line.mcnemar.against)}
    if line.reported:
        found["reported"] = line.reported._asdict()
    return found


def _dots(found: Comparison) -> list[Dot]:
    """A dot a run; named by its network, and by its run too where a network is there twice."""
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
