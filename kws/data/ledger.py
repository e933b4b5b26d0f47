"""What the ranks really consumed, written down, and the proof that it is the plan.

Each rank of each attempt (start or resume) appends to RUN/ledger/ATTEMPT-RANK.i64: a head (attempt, step it started
from), then rows (epoch, step, slot, draw, clip), all int64, `step` counted over the whole run. A resume from step s
voids the earlier attempts' rows with step >= s: their effect on the weights is gone too.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kws.data.plan import Plan, Slot
from kws.errors import naming

_WIDTH = 5
Rows = npt.NDArray[np.int64]
_NONE: Rows = np.zeros((0, _WIDTH), dtype=np.int64)


class Ledger:
    """One rank's writer; `flush` before a checkpoint counts as whole."""

    def __init__(self, run: Path, attempt: int, rank: int, start_step: int) -> None:
        folder = run / "ledger"
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{attempt:04d}-{rank:05d}.i64"
        self._file = self._path.open("wb")
        self._file.write(np.array([attempt, start_step], dtype=np.int64).tobytes())

    def add(self, epoch: int, step: int, slot: int, draws: Rows, clips: Rows) -> None:
        """A consumed slot: `step` over the whole run, draws and clips (B,)."""
        rows = np.empty((len(draws), _WIDTH), dtype=np.int64)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4] = epoch, step, slot, draws, clips
        with naming(self._path):
            self._file.write(rows.tobytes())

    def flush(self) -> None:
        """To the disk itself."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and ends."""
        self.flush()
        self._file.close()


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Draws consumed in steps that count, draws of steps done again, and what is wrong (empty: nothing)."""

    live: int
    void: int
    faults: list[str]


def check(
    run: Path, plans: dict[int, Plan], steps_per_epoch: int, done_steps: int, left_out: Sequence[int] = ()
) -> Verdict:
    """Compares the ledger of `run` with the plans (by epoch) of its first `done_steps` steps.

    Draws of the clips `left_out` may be missing: damaged ones, which `data.on_bad=skip` passed over.
    """
    live, void = _read(run)
    faults: list[str] = []
    for epoch, plan in sorted(plans.items()):
        first = epoch * steps_per_epoch
        steps = range(max(0, min(plan.steps, done_steps - first)))
        planned = ((first + step, slot) for step in steps for slot in plan.step_slots(step))
        found = live[(live[:, 1] >= first) & (live[:, 1] < first + len(steps))]
        faults += _compare(epoch, planned, found, left_out)
    counted = live[live[:, 1] < done_steps]
    faults += [] if np.isin(counted[:, 0], list(plans)).all() else ["rows of epochs that the run has not reached"]
    return Verdict(len(counted), len(void), faults + _redone(live, void, done_steps))


def live_rows(run: Path) -> Rows:
    """The rows (epoch, step, slot, draw, clip) that count, (n, 5): without what later attempts did again."""
    return _read(run)[0]


def _compare(epoch: int, planned: Iterator[tuple[int, Slot]], found: Rows, left_out: Sequence[int]) -> list[str]:
    wanted = np.concatenate([_NONE, *(_rows(epoch, step, slot) for step, slot in planned)])
    wanted, found = (_sorted(rows[~np.isin(rows[:, 4], left_out)]) for rows in (wanted, found))
    if np.array_equal(wanted, found):
        return []
    lost = {tuple(row) for row in wanted.tolist()} - {tuple(row) for row in found.tolist()}
    strange = {tuple(row) for row in found.tolist()} - {tuple(row) for row in wanted.tolist()}
    once, counts = np.unique(found, axis=0, return_counts=True)
    doubled = len(found) - len(once)
    sample = sorted(lost or strange or {tuple(row) for row in once[counts > 1].tolist()})[0]
    return [
        f"epoch {epoch}: {len(lost)} draws lost, {len(strange)} not of the plan, {doubled} doubled; "
        f"first at step {sample[1]}, slot {sample[2]}, draw {sample[3]}, clip {sample[4]}"
    ]


def _redone(live: Rows, void: Rows, done_steps: int) -> list[str]:
    """A step done again must have read what it read the first time; steps not done yet may be there in part."""
    again = live[np.isin(live[:, 1], np.unique(void[:, 1]))]
    known = {(row[1], row[3]): row for row in again.tolist()}
    wrong = [row for row in void.tolist() if known.get((row[1], row[3]), row if row[1] >= done_steps else None) != row]
    return [f"{len(wrong)} draws read another clip when done again, first at step {wrong[0][1]}"] if wrong else []


def _rows(epoch: int, step: int, slot: Slot) -> Rows:
    count = len(slot.draws)
    return np.stack([np.full(count, epoch), np.full(count, step), np.full(count, slot.slot), slot.draws, slot.clips], 1)


def _sorted(rows: Rows) -> Rows:
    return rows[np.lexsort((rows[:, 3], rows[:, 1]))]


def _read(run: Path) -> tuple[Rows, Rows]:
    """Live and void rows. A last row that a kill cut off is left out."""
    attempts: dict[int, tuple[int, list[Rows]]] = {}
    for path in sorted((run / "ledger").glob("*.i64")):
        numbers = np.frombuffer(path.read_bytes()[: path.stat().st_size // 8 * 8], dtype=np.int64)
        if len(numbers) >= 2:
            rows = numbers[2 : 2 + (len(numbers) - 2) // _WIDTH * _WIDTH].reshape(-1, _WIDTH)
            attempts.setdefault(int(numbers[0]), (int(numbers[1]), []))[1].append(rows)
    live, void = _NONE, [_NONE]
    for _, (start, parts) in sorted(attempts.items()):
        void.append(live[live[:, 1] >= start])
        live = np.concatenate([live[live[:, 1] < start], *parts])
    return live, np.concatenate(void)
