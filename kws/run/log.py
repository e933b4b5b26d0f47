"""The log of a run: events go to metrics.jsonl, curves to TensorBoard and W&B, and the console shows them. Rank 0 only.

metrics.jsonl has one line per event; everything that is drawn later can be drawn from it. Each line has `event`, `time`
(unix seconds) and `step` (updates done, over the whole run), and by kind of event:

    start   attempt (from 1)  epoch (of the next step, from 0)  world_size  epochs, steps, steps_per_epoch (of the run)
            best (best valid accuracy so far, or null)
    step    every train.log_steps, over the steps since the line before: epoch (from 0)  lr (of the last update)
            loss (nats per clip)  accuracy  clips_per_s  data_wait (fraction of the time)  seconds
            gpu_gb (10^9 bytes, the most that was reserved; if there is a GPU)
            parts (part of a step -> seconds of rank 0; kws/run/step_parts.py)
    ranks   with several ranks, since the last such line: steps  seconds (part of a step -> seconds of each rank)
    straggler   when a rank becomes or stops being one, or changes: rank  host  slow  ratio (busy time to the median
            rank's)  steps (for how many)  part (in which it lost most)  wait (fraction of the time)
    epoch   epoch (from 0)  lr  train_loss  train_accuracy  clips_per_s  data_wait
            seconds (of its steps in this attempt)
            if it was evaluated: valid_loss  valid_accuracy  eval_seconds  ema_valid_loss  ema_valid_accuracy
            with train.valid_stream: valid_stream_false_accepts_per_hour (where so few words can be missed)
            valid_stream_missed_share
            parts (since the last step line: saving and evaluating)
    save    checkpoint (name of its folder)  seconds (that training waited for it)
    end     state (finished, preempted)  parts (since the last epoch or step line)

A resumed run writes the steps after its checkpoint again: the later line counts (kws.results.records.read_events).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console

from kws import settings_file
from kws.config import Config
from kws.errors import filename_in_error
from kws.run import display
from kws.run.curves import TensorBoard, WeightsAndBiases, scalars
from kws.run.display import RunLength


def make_console(active: bool) -> Console:
    """Prints plain lines of any length on stdout; nothing if not `active`."""
    return Console(quiet=not active, highlight=False, soft_wrap=True, markup=False)


class RunLog:
    """Writes a run's events as they happen, after step `step`. On ranks other than 0 (`active` False) every method does
    nothing."""

    def __init__(
        self, run: Path, config: Config, length: RunLength, step: int, console: Console, active: bool
    ) -> None:  # fmt: skip
        self._active, self._length = active, length
        if active:
            self._path = path = run / "metrics.jsonl"
            # If a kill cut off the last line, the next one must not be appended to it.
            cut_off = path.exists() and _last_byte(path) not in (b"", b"\n")
            self._file = path.open("a", encoding="utf-8", buffering=1)
            self._file.write("\n" if cut_off else "")
            self._display = display.make_display(length, console, 60.0 * config.train.log_minutes)
            self._curves: list[TensorBoard | WeightsAndBiases] = [TensorBoard(run, step)]
            if project := config.train.wandb:
                self._curves.append(WeightsAndBiases(run, project, settings_file.flatten(config), console.print))

    def __enter__(self) -> RunLog:
        if self._active:
            self._display.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._active:
            self._display.end()
            for curves in self._curves:
                curves.close()
            with filename_in_error(self._path):
                self._file.close()  # on a full disk this raises the error of the last line again

    def event(self, kind: str, step: int, **values: Any) -> None:
        """Writes one line of metrics.jsonl, adds points to the curves, and updates the display."""
        if not self._active:
            return
        with filename_in_error(self._path):
            self._file.write(json.dumps({"event": kind, "time": time.time(), "step": step, **values}) + "\n")
        points = scalars(kind, values)
        for curves in self._curves:
            curves.add(points, step, step / self._length.steps_per_epoch)
        self._display.event(kind, step, values)

    def flush(self) -> None:
        """Writes metrics.jsonl to the disk itself, before a checkpoint that relies on it."""
        if self._active:
            os.fsync(self._file.fileno())

    def advance(self, step: int) -> None:
        """Step number `step`, counted from 1, is done. Called at every step; costs about a microsecond."""
        if self._active:
            self._display.advance(step)

    def evaluation_progress(self, done: int, total: int) -> None:
        """`done` of this rank's `total` batches of the valid split are evaluated."""
        if self._active:
            self._display.evaluation_progress(done, total)


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read()
