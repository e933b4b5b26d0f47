"""Reads a run folder's files, whatever state the run is in: metrics, attempts, status, evaluations.

metrics.jsonl -> events, each step and epoch once -> attempts        eval/*.json -> results
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kws.run import lock

Row = dict[str, Any]


@dataclass(frozen=True)
class AttemptSummary:
    """One attempt: when it began (unix seconds), how long it ran (seconds), and its first and last step."""

    number: int
    began: float | None
    seconds: float
    world_size: int | None
    first: int
    last: int
    end: str | None
    """Its final state; None where it wrote no end event: it was killed, or is still running."""


class ClassDraws(NamedTuple):
    """One class in one epoch: clips in the train split, planned draws in the steps done so far, and draws in the ledger
    (None: the run writes no ledger)."""

    word: str
    clips: int
    planned: int
    consumed: int | None


class SamplingAudit(NamedTuple):
    """An epoch (counted from 0), the number of its steps done so far, and one row per class."""

    epoch: int
    steps: int
    rows: list[ClassDraws]


def rows_of(events: Iterable[Row], kind: str) -> list[Row]:
    """The events of one kind, such as "step" (kws/run/log.py)."""
    return [row for row in events if row["event"] == kind]


def read_events(path: Path) -> list[Row]:
    """The events of a metrics.jsonl in file order, each step and each epoch once. [] where there is no file.

    A resumed run repeats steps: rows of earlier attempts after the step it resumed from are dropped, and of two rows
    for one step (or one epoch) the later is kept. All start and end events are kept. Lines that are not an event are
    skipped, such as the partial last line of a killed run.
    """
    return without_repeats(read_lines(path))


def read_lines(path: Path) -> list[Row]:
    """All events of a metrics.jsonl, also those that a later attempt repeated. [] where there is no file."""
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
    # Events that are plotted need their step, and an epoch event its epoch.
    needed = {"start": ("step",), "step": ("step",), "epoch": ("step", "epoch"), "end": ()}
    needed |= {"ranks": ("step",), "straggler": ("step",)}
    if not isinstance(row, dict) or row.get("event") not in needed:
        return None
    return row if all(isinstance(row.get(key), int) for key in needed[row["event"]]) else None


_KEYS = {"step": "step", "epoch": "epoch", "ranks": "step"}
"""Kind of event -> the number of which it has one row."""


def without_repeats(rows: Iterable[Row]) -> list[Row]:
    """The rows of read_lines that read_events keeps."""
    kept: dict[tuple[str, int], Row] = {}
    for order, row in enumerate(rows):
        kind = row["event"]
        if kind == "start":
            # A row at the very step resumed from is kept until it is repeated: it may be the epoch that ended with
            # the checkpoint, which the new attempt does not write again.
            kept = {key: old for key, old in kept.items() if not _is_replayed(old, row["step"])}
        key = (kind, row[_KEYS[kind]] if kind in _KEYS else order)
        kept.pop(key, None)  # so that the later row also has the later position
        kept[key] = row
    return list(kept.values())


def _is_replayed(row: Row, resumed_at: int) -> bool:
    return row["event"] in ("step", "epoch", "ranks", "straggler") and (row["step"] > resumed_at or resumed_at == 0)


def read_json(path: Path) -> Row:
    """The object in a JSON file; {} where the file is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def checkpoint_name(run: Path, pointer: str) -> str | None:
    """Name of the checkpoint to which `best_accuracy`, `best_loss` or `last` points; None where there is none."""
    try:
        return (run / "checkpoints" / pointer).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def read_results(run: Path) -> list[Row]:
    """The readable eval/*.json: test first, and each split's result with crops after the one without."""
    paths = sorted(run.glob("eval/*.json"), key=lambda path: (path.stem.endswith("-crop"), path))
    results = [{"split": path.stem, **read_json(path)} for path in paths]
    order = {"test": 0, "valid": 1, "train": 3}
    return sorted(filter(is_complete, results), key=lambda result: order.get(str(result["split"]), 2))


def is_complete(result: Row) -> bool:
    """Whether this is an evaluation's summary, with what pictures and tables need."""
    try:
        return bool(result["classes"]) and np.shape(result["confusion"]) == (len(result["classes"]),) * 2
    except (KeyError, TypeError, ValueError):  # missing, of another type, ragged
        return False


def read_status(run: Path) -> Row:
    """RUN/status.json, with state "killed" where it is "running" but no process holds the run's lock."""
    status = read_json(run / "status.json")
    killed = status.get("state") == "running" and lock.find_holder(run) is None
    return status | {"state": "killed"} if killed else status


def attempts(lines: Sequence[Row]) -> list[AttemptSummary]:
    """The run's attempts. `lines` are those of read_lines: time spent on steps that were repeated later counts too."""
    by_attempt: list[list[Row]] = []
    for row in lines:
        if row["event"] == "start":
            by_attempt.append([])
        if by_attempt:
            by_attempt[-1].append(row)
    return [_summarise_attempt(rows, count) for count, rows in enumerate(by_attempt, 1)]


def _summarise_attempt(rows: Sequence[Row], count: int) -> AttemptSummary:
    times = [row["time"] for row in rows if isinstance(row.get("time"), int | float)]
    ends = rows_of(rows, "end")
    return AttemptSummary(
        number=rows[0].get("attempt") or count,
        began=rows[0].get("time"),
        seconds=max(times) - min(times) if times else 0.0,
        world_size=rows[0].get("world_size"),
        first=rows[0]["step"],
        last=max(row["step"] for row in rows if isinstance(row.get("step"), int)),
        end=str(ends[-1].get("state")) if ends else None,
    )


def steps_done(run: Path) -> int:
    """The last step in the run's metrics; 0 where there is none."""
    events = read_events(run / "metrics.jsonl")
    return max((row["step"] for row in events if row["event"] in ("step", "epoch")), default=0)
