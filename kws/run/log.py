"""What a run says: events to metrics.jsonl, curves to TensorBoard and W&B, a display or lines to the console. Rank 0
only.

metrics.jsonl has a line an event, from which everything can be drawn again. Each has `event`, `time` (unix seconds) and
`step` (updates done, over the whole run), and beside these:

    start   attempt (from 1)  epoch (of the next step, from 0)  world_size  epochs, steps, steps_per_epoch (of the run)
            best (valid accuracy so far, or null)
    step    each train.log_steps, over the steps since the line before: epoch (from 0)  lr (of the last update)
            loss (nats a clip)  accuracy  clips_per_s  data_wait (fraction of the time)  seconds
            gpu_gb (10^9 bytes, the most that was reserved; where there is a GPU)
    epoch   epoch (from 0)  lr  train_loss  train_accuracy  clips_per_s  data_wait  seconds (of its steps in this start)
            valid_loss  valid_accuracy  eval_seconds (where it was evaluated)  ema_valid_loss  ema_valid_accuracy
    save    checkpoint (its folder)  seconds (that training waited for it)
    end     state (finished, preempted)

A resumed run writes the steps after its checkpoint again: the later line counts (kws.results.report.read_events).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from kws import config as settings_file
from kws.config import Config
from kws.errors import naming
from kws.run import display
from kws.run.curves import TensorBoard, WeightsAndBiases, scalars
from kws.run.display import RunLength


class _Lines(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the reader of stdout has gone")  # rich would leave with 1, and say only that


def make_console(active: bool) -> Console:
    """Plain lines of any length on stdout; silent where not `active`."""
    return _Lines(quiet=not active, highlight=False, soft_wrap=True, markup=False)


class RunLog:
    """Writes a run's events as they happen, from update `step` on. On other ranks than 0 (`active` False) every call
    does nothing."""

    def __init__(self, run: Path, config: Config, length: RunLength, step: int, shown: Console, active: bool) -> None:
        self._active, self._length = active, length
        if active:
            self._path = path = run / "metrics.jsonl"
            # A line that a kill cut off must not swallow the next one.
            torn = path.exists() and _last_byte(path) not in (b"", b"\n")
            self._file = path.open("a", encoding="utf-8", buffering=1)
            self._file.write("\n" if torn else "")
            self._display = display.make_display(length, shown, 60.0 * config.train.log_minutes)
            self._curves: list[TensorBoard | WeightsAndBiases] = [TensorBoard(run, step)]
            if project := config.train.wandb:
                self._curves.append(WeightsAndBiases(run, project, settings_file.flatten(config), shown.print))

    def __enter__(self) -> RunLog:
        if self._active:
            self._display.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._active:
            self._display.end()
            for curves in self._curves:
                curves.close()
            with naming(self._path):
                self._file.close()  # of a full disk, raises what the last line met once more

    def event(self, kind: str, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; its numbers that are curves are drawn, and what a person wants to see is shown."""
        if not self._active:
            return
        with naming(self._path):
            self._file.write(json.dumps({"event": kind, "time": time.time(), "step": step, **values}) + "\n")
        found = scalars(kind, values)
        for curves in self._curves:
            curves.add(found, step, step / self._length.steps_per_epoch)
        self._display.event(kind, step, values)

    def flush(self) -> None:
        """To the disk itself: before a checkpoint counts, what it stands on is written."""
        if self._active:
            os.fsync(self._file.fileno())

    def advance(self, step: int) -> None:
        """Update number `step`, from 1, is done. For every step: it costs about a microsecond."""
        if self._active:
            self._display.advance(step)

    def evaluation_progress(self, done: int, total: int) -> None:
        """So many of this process's batches of the valid split are done."""
        if self._active:
            self._display.evaluation_progress(done, total)


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read()
