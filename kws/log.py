"""What a run says: events to metrics.jsonl, curves to TensorBoard, lines or a live bar to the console. Rank 0 only."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_STEP_CURVES = ("loss", "accuracy", "lr", "clips_per_s", "data_wait")
_EPOCH_CURVES = (
    *("train_loss", "train_accuracy", "valid_loss", "valid_accuracy"),
    *("ema_valid_loss", "ema_valid_accuracy"),
)


def console(active: bool) -> Console:
    """Plain lines of any length on stdout; silent where not `active`."""
    return Console(quiet=not active, highlight=False, soft_wrap=True, markup=False)


class RunLog:
    """Writes a run's events as they happen. On other ranks than 0 (`active` False) every call does nothing."""

    def __init__(self, run: Path, active: bool, total_steps: int, shown: Console) -> None:
        self._active, self._total, self._console = active, total_steps, shown
        self._progress: Progress | None = None
        if active:
            from tensorboard.summary import Writer  # type: ignore[import-untyped]  # slow to import

            path = run / "metrics.jsonl"
            # A line that a kill cut off must not swallow the next one.
            torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
            self._file = path.open("a", encoding="utf-8", buffering=1)
            self._file.write("\n" if torn else "")
            self._board = Writer(str(run / "tensorboard"))

    def __enter__(self) -> RunLog:
        if self._active and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task("training", total=self._total)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()
        if self._active:
            self._file.close()
            self._board.close()

    def event(self, kind: str, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; the numbers that are curves go to TensorBoard too."""
        if not self._active:
            return
        self._file.write(json.dumps({"event": kind, "time": time.time(), "step": step, **values}) + "\n")
        for name in _STEP_CURVES if kind == "step" else _EPOCH_CURVES if kind == "epoch" else ():
            if name in values:
                self._board.add_scalar(f"{kind}/{name}", values[name], step)

    def flush(self) -> None:
        """To the disk itself: before a checkpoint counts, what it stands on is written."""
        if self._active:
            os.fsync(self._file.fileno())

    def advance(self, step: int, text: str) -> None:
        """Moves the bar, where there is one."""
        if self._progress:
            self._progress.update(self._task, completed=step, description=text)
