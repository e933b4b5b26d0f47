"""What the console shows of a run: a live display if stdout is a terminal, else a line now and then.

    kws/run/log.py: events, step numbers -> LiveDisplay: progress bars and metrics, drawn by a thread
                                      or -> LineDisplay: a line every train.log_minutes, and one per epoch

The training only stores numbers here, a microsecond per step; the drawing thread turns them into text.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kws.run.step_parts import largest_parts
from kws.run.stragglers import Straggler

Values = Mapping[str, Any]
_REFRESHES_PER_S = 3  # of 4 ms each
_FULL_WIDTH = 72
"""Columns of a terminal that has room for all metrics."""
_TABLE_COLUMNS = {
    "loss": ("loss", "{:.3f}"), "accuracy": ("accuracy", "{:.1%}"), "lr": ("lr", "{:.2e}"),
    "clips_per_s": ("clips/s", "{:,.0f}"), "data_wait": ("data wait", "{:.1%}"), "gpu_gb": ("GPU", "{:.1f} GB"),
    "best": ("best valid", "{:.2%}"),
}  # fmt: skip
_STEP_FORMATS = {
    "loss": "loss {:.3f}", "accuracy": "accuracy {:.1%}", "lr": "lr {:.2e}", "clips_per_s": "{:.0f} clips/s",
    "data_wait": "data wait {:.1%}", "gpu_gb": "GPU {:.1f} GB",
}  # fmt: skip
_EPOCH_FORMATS = {
    "train_loss": "loss {:.3f}", "train_accuracy": "{:.1%}", "valid_loss": "| valid {:.3f}",
    "valid_accuracy": "{:.2%}", "ema_valid_accuracy": "averaged {:.2%}",
    "valid_stream_missed_share": "| streams {:.1%} missed",
    "valid_stream_false_accepts_per_hour": "{:.3g} false accepts/h",
    "clips_per_s": "| {:.0f} clips/s", "seconds": "{:.0f} s",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RunLength:
    """How long a run is."""

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.epochs * self.steps_per_epoch


class TimeEstimate:
    """Estimates the remaining time from the speed of this attempt.

    The time per step is a mean with exponential decay: HALF_LIFE_S ago counts half. The time between two epochs, for
    evaluating and saving, has a mean of its own. The first step of an attempt, which waits for workers and compilers,
    is not counted.
    """

    HALF_LIFE_S = 60.0

    def __init__(self, length: RunLength, clock: Callable[[], float] = time.monotonic) -> None:
        self._length, self._clock = length, clock
        self._last: float | None = None
        self._step_seconds = self._steps = 0.0
        self._between_seconds = 0.0
        self._epoch_changes = 0

    def add_step(self, step: int) -> None:
        """Step number `step` of the run, counted from 1, is done."""
        now = self._clock()
        if self._last is not None:
            seconds = now - self._last
            if (step - 1) % self._length.steps_per_epoch == 0:
                self._between_seconds, self._epoch_changes = self._between_seconds + seconds, self._epoch_changes + 1
            else:
                keep = 0.5 ** (seconds / self.HALF_LIFE_S)
                self._step_seconds, self._steps = keep * self._step_seconds + seconds, keep * self._steps + 1.0
        self._last = now

    def seconds_left(self, step: int, until: int) -> float | None:
        """Seconds from the end of step `step` to the end of step `until`; None while the speed is unknown."""
        if not self._steps and not self._epoch_changes:
            return None
        per_step = self._step_seconds / self._steps if self._steps else 0.0
        per_change = self._between_seconds / self._epoch_changes if self._epoch_changes else per_step
        steps_per_epoch = self._length.steps_per_epoch
        changes = -(-until // steps_per_epoch) - -(-step // steps_per_epoch)  # epochs that begin in between
        return (until - step - changes) * per_step + changes * per_change


class LineDisplay:
    """For a log file: one line per epoch, and within an epoch at most one line every `line_seconds`."""

    def __init__(self, length: RunLength, console: Console, line_seconds: float) -> None:
        self._length, self._console, self._estimate = length, console, TimeEstimate(length)
        self._line_seconds, self._last_line_at = line_seconds, time.monotonic()
        self._step, self._values, self._best = 0, dict[str, Any](), None
        self._stragglers: dict[int, str] = {}  # rank -> line

    def begin(self) -> None:
        """Call before the first event."""

    def end(self) -> None:
        """Call after the last event."""

    def advance(self, step: int) -> None:
        """Step number `step`, counted from 1, is done."""
        self._step = step
        self._estimate.add_step(step)

    def evaluation_progress(self, done: int, total: int) -> None:
        """`done` of this rank's `total` batches of the valid split are evaluated."""

    def event(self, kind: str, step: int, values: Values) -> None:
        """An event, as it is written to metrics.jsonl."""
        if kind == "start":
            self._step, self._best = step, values["best"]
        elif kind == "step":
            self._values = dict(values)
            self._show_step(step, values)
        elif kind == "straggler":
            self._stragglers.pop(values["rank"], None)
            if values["slow"]:
                self._stragglers[values["rank"]] = Straggler(**values).text()
        elif kind == "epoch":
            accuracy = values.get("ema_valid_accuracy", values.get("valid_accuracy"))
            self._best = max((value for value in (self._best, accuracy) if value is not None), default=None)
            left = self._estimate.seconds_left(step, self._length.steps)
            tail = f"| ETA {format_duration(left)}" if left is not None and step < self._length.steps else ""
            self._print_line(f"epoch {values['epoch'] + 1}/{self._length.epochs}", _EPOCH_FORMATS, values, tail)

    def _show_step(self, step: int, values: Values) -> None:
        last_of_epoch = step % self._length.steps_per_epoch == 0  # the line of the epoch follows
        if time.monotonic() - self._last_line_at >= self._line_seconds and not last_of_epoch:
            head = f"step {step}/{self._length.steps}  epoch {values['epoch'] + 1}/{self._length.epochs}"
            left = self._estimate.seconds_left(step, self._length.steps)
            parts = largest_parts(values.get("parts", {}), most=2)
            tail = f"ETA {format_duration(left)}" + (f"  time: {parts}" if parts else "")
            self._print_line(head, _STEP_FORMATS, values, tail)

    def _print_line(self, head: str, formats: Mapping[str, str], values: Values, tail: str = "") -> None:
        texts = [text.format(values[name]) for name, text in formats.items() if name in values]
        self._console.print("  ".join([head, *texts, tail]).rstrip())
        self._last_line_at = time.monotonic()


class LiveDisplay(LineDisplay):
    """For a terminal: a bar for the epoch (or its evaluation), a bar for the run, metrics below, messages above."""

    def __init__(self, length: RunLength, console: Console, line_seconds: float) -> None:
        super().__init__(length, console, line_seconds)
        self._evaluated: tuple[int, int] | None = None
        self._began = self._epoch_began = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self.render, refresh_per_second=_REFRESHES_PER_S, transient=True
        )

    def begin(self) -> None:
        """Starts the drawing thread."""
        self._live.start()

    def end(self) -> None:
        """Removes the bars; the messages stay."""
        self._live.stop()

    def advance(self, step: int) -> None:
        """Step number `step`, counted from 1, is done."""
        super().advance(step)
        self._evaluated = None
        if (step - 1) % self._length.steps_per_epoch == 0:
            self._epoch_began = time.monotonic()

    def evaluation_progress(self, done: int, total: int) -> None:
        """`done` of this rank's `total` batches of the valid split are evaluated."""
        if self._evaluated is None:
            self._evaluation_began = time.monotonic()
        self._evaluated = done, total

    def _show_step(self, step: int, values: Values) -> None:
        """Prints nothing: the metrics are on the screen."""

    def render(self) -> Group:
        """Bars and metrics as they are now."""
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        for _ in range(4):
            bars.add_column(justify="right", no_wrap=True)
        now, step, steps = time.monotonic(), self._step, self._length.steps
        bars.add_row(*self._epoch_or_evaluation_bar(now))
        left = self._estimate.seconds_left(step, steps)
        bars.add_row("run", *_bar(step, steps, now - self._began, left))
        return Group(bars, self._metrics_table(), *self._time_lines())

    def _time_lines(self) -> list[Text]:
        """Where the time goes, and for which ranks the others wait: as much as fits into a line each."""
        width = self._console.width
        parts = largest_parts(self._values.get("parts", {}), most=6, width=width - len(" time  "))
        lines = [Text(f" time  {parts}", style="dim")] if parts else []
        return lines + [
            Text(f" {text}", style="yellow", no_wrap=True, overflow="ellipsis") for text in self._stragglers.values()
        ]

    def _epoch_or_evaluation_bar(self, now: float) -> tuple[Any, ...]:
        steps_per_epoch, step = self._length.steps_per_epoch, self._step
        evaluated = self._evaluated
        epoch = min(step // steps_per_epoch + (evaluated is None), self._length.epochs)
        if evaluated:
            done, total = evaluated
            spent = now - self._evaluation_began
            left = spent * (total - done) / done if done else None
            return (f"valid {epoch}/{self._length.epochs}", *_bar(done, total, spent, left))
        done = step - (epoch - 1) * steps_per_epoch
        left = self._estimate.seconds_left(step, epoch * steps_per_epoch)
        bar = _bar(done, steps_per_epoch, now - self._epoch_began, left)
        return (f"epoch {epoch}/{self._length.epochs}", *bar)

    def _metrics_table(self) -> Table:
        """The newest metrics in one row; a narrow terminal gets fewer columns."""
        values = {**self._values, "best": self._best}
        hidden = set() if "gpu_gb" in values else {"gpu_gb"}
        if self._console.width < _FULL_WIDTH:
            hidden |= {"lr", "data_wait"}
        table = Table(box=None, padding=(0, 1), header_style="dim")
        cells = []
        for name, (head, text) in _TABLE_COLUMNS.items():
            if name not in hidden:
                value = values.get(name)
                table.add_column(head, justify="right", no_wrap=True)
                cells.append("-" if value is None else text.format(value))
        table.add_row(*cells, style="bold")
        return table


def _bar(done: int, total: int, spent: float, left: float | None) -> tuple[Any, ...]:
    """Cells of a row: bar, percentage, count, time spent, time left."""
    return (
        ProgressBar(total=total, completed=done, finished_style="bar.complete"), f"{done / total:.0%}",
        f"{done:,}/{total:,}", format_duration(spent), Text(f"ETA {format_duration(left)}", style="cyan"),
    )  # fmt: skip


def format_duration(seconds: float | None) -> str:
    """75.2 -> "1:15", 3675 -> "1:01:15"; "-:--" for None."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_display(length: RunLength, console: Console, line_seconds: float) -> LineDisplay:
    """A LiveDisplay if `console` is a terminal that can move its cursor, else a LineDisplay."""
    live = console.is_terminal and not console.is_dumb_terminal and not console.quiet
    return (LiveDisplay if live else LineDisplay)(length, console, line_seconds)
