"""The ledger: a record of every clip that the ranks consumed, and its comparison with the plan (`kws verify RUN`).

Each rank of each attempt (start or resume) appends to RUN/ledger/ATTEMPT-RANK.i64: a head (attempt, first step), then
rows (epoch, step, slot, draw, clip), all int64; `step` is counted over the whole run. An attempt that resumes from step
s replays it: rows of earlier attempts with step >= s no longer count, as their updates of the weights were lost too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kws.data.plan import Plan, Slot
from kws.errors import filename_in_error

_WIDTH = 5
Rows = npt.NDArray[np.int64]
_NONE: Rows = np.zeros((0, _WIDTH), dtype=np.int64)


class Ledger:
    """Writes the ledger of one rank. Flush it before a checkpoint is published."""

    def __init__(self, run: Path, attempt: int, rank: int, start_step: int) -> None:
        folder = run / "ledger"
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{attempt:04d}-{rank:05d}.i64"
        self._file = self._path.open("wb")
        self._file.write(np.array([attempt, start_step], dtype=np.int64).tobytes())

    def add(self, epoch: int, step: int, slot: int, draws: Rows, clips: Rows) -> None:
        """Appends the draws and clips, (B,) each, of a consumed slot; `step` counts over the whole run."""
        rows = np.empty((len(draws), _WIDTH), dtype=np.int64)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4] = epoch, step, slot, draws, clips
        with filename_in_error(self._path):
            self._file.write(rows.tobytes())

    def flush(self) -> None:
        """Writes all rows to the disk (fsync). Raises OSError, which names the file."""
        with filename_in_error(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file, which is closed even where the disk is full. Raises OSError as `flush`."""
        with filename_in_error(self._path):
            try:
                self.flush()
            finally:
                self._file.close()


@dataclasses.dataclass(frozen=True)
class LedgerComparison:
    """Number of draws `consumed`, number of draws `replayed` after a resume, and differences from the plan (`faults`,
    empty where there are none)."""

    consumed: int
    replayed: int
    faults: list[str]


def compare_with_plan(
    run: Path, plans: dict[int, Plan], steps_per_epoch: int, done_steps: int, left_out: Sequence[int] = ()
) -> LedgerComparison:
    """Compares the ledger of a run folder with the plans (by epoch) of its first `done_steps` steps.

    left_out: ids of damaged clips, which `data.on_bad=skip` skips; their draws may be missing.
    """
    consumed, replayed = _read(run)
    faults: list[str] = []
    for epoch, plan in sorted(plans.items()):
        first = epoch * steps_per_epoch
        steps = range(max(0, min(plan.steps, done_steps - first)))
        planned = ((first + step, slot) for step in steps for slot in plan.step_slots(step))
        found = consumed[(consumed[:, 1] >= first) & (consumed[:, 1] < first + len(steps))]
        faults += _compare_epoch(epoch, planned, found, left_out)
    counted = consumed[consumed[:, 1] < done_steps]
    faults += [] if np.isin(counted[:, 0], list(plans)).all() else ["rows of epochs that the run has not reached"]
    return LedgerComparison(len(counted), len(replayed), faults + _compare_replayed(consumed, replayed, done_steps))


def consumed_rows(run: Path) -> Rows:
    """Returns the rows (epoch, step, slot, draw, clip) that count, (n, 5): not those that a later attempt replayed."""
    return _read(run)[0]


def _compare_epoch(epoch: int, planned: Iterator[tuple[int, Slot]], found: Rows, left_out: Sequence[int]) -> list[str]:
    """Returns a line where the rows of an epoch differ from the planned (step, slot) pairs; else []."""
    wanted = np.concatenate([_NONE, *(_rows(epoch, step, slot) for step, slot in planned)])
    wanted, found = (_sorted(rows[~np.isin(rows[:, 4], left_out)]) for rows in (wanted, found))
    if np.array_equal(wanted, found):
        return []
    lost = {tuple(row) for row in wanted.tolist()} - {tuple(row) for row in found.tolist()}
    unplanned = {tuple(row) for row in found.tolist()} - {tuple(row) for row in wanted.tolist()}
    unique, counts = np.unique(found, axis=0, return_counts=True)
    doubled = len(found) - len(unique)
    sample = sorted(lost or unplanned or {tuple(row) for row in unique[counts > 1].tolist()})[0]
    return [
        f"epoch {epoch}: {len(lost)} draws lost, {len(unplanned)} not in the plan, {doubled} doubled; "
        f"first at step {sample[1]}, slot {sample[2]}, draw {sample[3]}, clip {sample[4]}"
    ]


def _compare_replayed(consumed: Rows, replayed: Rows, done_steps: int) -> list[str]:
    """Returns a line where a replayed step had read other clips the first time. Unfinished steps may lack rows."""
    again = consumed[np.isin(consumed[:, 1], np.unique(replayed[:, 1]))]
    known = {(row[1], row[3]): row for row in again.tolist()}
    wrong = [
        row for row in replayed.tolist() if known.get((row[1], row[3]), row if row[1] >= done_steps else None) != row
    ]
    return [f"{len(wrong)} draws read another clip when replayed, first at step {wrong[0][1]}"] if wrong else []


def _rows(epoch: int, step: int, slot: Slot) -> Rows:
    """Returns a slot as rows of the ledger, (draws, 5)."""
    count = len(slot.draws)
    return np.stack([np.full(count, epoch), np.full(count, step), np.full(count, slot.slot), slot.draws, slot.clips], 1)


def _sorted(rows: Rows) -> Rows:
    return rows[np.lexsort((rows[:, 3], rows[:, 1]))]


def _read(run: Path) -> tuple[Rows, Rows]:
    """Returns the consumed and the replayed rows. A last row that a kill cut short is left out."""
    attempts: dict[int, tuple[int, list[Rows]]] = {}
    for path in sorted((run / "ledger").glob("*.i64")):
        numbers = np.frombuffer(path.read_bytes()[: path.stat().st_size // 8 * 8], dtype=np.int64)
        if len(numbers) >= 2:
            rows = numbers[2 : 2 + (len(numbers) - 2) // _WIDTH * _WIDTH].reshape(-1, _WIDTH)
            attempts.setdefault(int(numbers[0]), (int(numbers[1]), []))[1].append(rows)
    consumed, replayed = _NONE, [_NONE]
    for _, (start, parts) in sorted(attempts.items()):
        replayed.append(consumed[consumed[:, 1] >= start])
        consumed = np.concatenate([consumed[consumed[:, 1] < start], *parts])
    return consumed, np.concatenate(replayed)
