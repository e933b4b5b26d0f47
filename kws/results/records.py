"""What a run folder's files say, in any state that a run can be in: settings, events, starts, results. No torch.

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
    """One start of a run: when it began (unix seconds), how long it ran and which steps it covered."""

    number: int
    began: float | None
    seconds: float
    world_size: int | None
    first: int
    last: int
    end: str | None  # None: it wrote no end line, so it was killed or is running still


class ClassDraws(NamedTuple):
    """One class in one epoch: clips in the train split, draws that the plan has for the steps trained so far, and draws
    in the ledger (None: the run kept no ledger)."""

    word: str
    clips: int
    planned: int
    consumed: int | None


class SamplingAudit(NamedTuple):
    """An epoch (counted from 0), the number of its steps trained so far, and one row a class."""

    epoch: int
    steps: int
    rows: list[ClassDraws]


def rows_of(events: Iterable[Row], kind: str) -> list[Row]:
    """The events of one kind: "start", "step", "epoch" or "end"."""
    return [row for row in events if row["event"] == kind]


def read_events(path: Path) -> list[Row]:
    """The events of a metrics.jsonl in file order, each step and each epoch once.

    A resumed run repeats steps: rows of earlier attempts beyond the step it resumed from are dropped, and of
    two rows for one step (or one epoch) the later wins. start and end events all stay. Lines that are no
    JSON event are skipped, as is the half line a killed run leaves. A missing file gives [].
    """
    return without_repeats(read_lines(path))


def read_lines(path: Path) -> list[Row]:
    """All of its events, those too that a resume undid. A missing file gives []."""
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


def without_repeats(rows: Iterable[Row]) -> list[Row]:
    """Of the rows of read_lines those that count, as read_events says."""
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


def read_json(path: Path) -> Row:
    """The object in a JSON file, or {} where there is none yet or it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def pointed_to(run: Path, pointer: str) -> str | None:
    """The checkpoint that `best_accuracy`, `best_loss` or `last` names; None where there is none."""
    try:
        return (run / "checkpoints" / pointer).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def read_results(run: Path) -> list[Row]:
    """The readable eval/*.json, test first, a split's crop test after its plain one."""
    paths = sorted(run.glob("eval/*.json"), key=lambda path: (path.stem.endswith("-crop"), path))
    results = [{"split": path.stem, **read_json(path)} for path in paths]
    order = {"test": 0, "valid": 1, "train": 3}
    return sorted(filter(is_whole, results), key=lambda result: order.get(str(result["split"]), 2))


def is_whole(result: Row) -> bool:
    """Whether this is a metrics.summarise_confusion, as far as pictures and tables need it."""
    try:
        return bool(result["classes"]) and np.shape(result["confusion"]) == (len(result["classes"]),) * 2
    except (KeyError, TypeError, ValueError):  # missing, of another type, ragged
        return False


def read_status(run: Path) -> Row:
    """RUN/status.json; of a run that says it is running and that no process has any more, the state is "killed"."""
    status = read_json(run / "status.json")
    gone = status.get("state") == "running" and lock.find_holder(run) is None
    return status | {"state": "killed"} if gone else status


def attempts(lines: Sequence[Row]) -> list[AttemptSummary]:
    """Starts and how far each came, from what read_lines gives: the rows a resume undid were still worked for."""
    stretches: list[list[Row]] = []
    for row in lines:
        if row["event"] == "start":
            stretches.append([])
        if stretches:
            stretches[-1].append(row)
    return [_attempt(rows, count) for count, rows in enumerate(stretches, 1)]


def _attempt(rows: Sequence[Row], count: int) -> AttemptSummary:
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
    """The furthest step that the run's metrics record; 0 where there is none."""
    events = read_events(run / "metrics.jsonl")
    return max((row["step"] for row in events if row["event"] in ("step", "epoch")), default=0)
