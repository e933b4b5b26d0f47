"""What a person sees of a run: a live display where stdout is a terminal, else a line now and then.

kws/run/log.py: events, step numbers -> TimeEstimate
  -> LiveDisplay: bars and figures, drawn by a thread   or   LineDisplay: a line a minute, and one an epoch
Training only notes numbers here, a microsecond a step; what is drawn of them is made when it is drawn.
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

Figures = Mapping[str, Any]
_REFRESHES_PER_S = 3  # of 4 ms each
_WIDE = 72
"""Columns of a terminal in which all figures find room."""
_COLUMNS = {
    "loss": ("loss", "{:.3f}"), "accuracy": ("accuracy", "{:.1%}"), "lr": ("lr", "{:.2e}"),
    "clips_per_s": ("clips/s", "{:,.0f}"), "data_wait": ("data wait", "{:.1%}"), "gpu_gb": ("GPU", "{:.1f} GB"),
    "best": ("best valid", "{:.2%}"),
}  # fmt: skip
_OF_LINE = {
    "loss": "loss {:.3f}", "accuracy": "accuracy {:.1%}", "lr": "lr {:.2e}", "clips_per_s": "{:.0f} clips/s",
    "data_wait": "data wait {:.1%}", "gpu_gb": "GPU {:.1f} GB",
}  # fmt: skip
_OF_EPOCH = {
    "train_loss": "loss {:.3f}", "train_accuracy": "{:.1%}", "valid_loss": "| valid {:.3f}",
    "valid_accuracy": "{:.2%}", "ema_valid_accuracy": "averaged {:.2%}",
    "clips_per_s": "| {:.0f} clips/s", "seconds": "{:.0f} s",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RunLength:
    """How long a run is."""

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.epochs * self.steps_per_epoch


class TimeEstimate:
    """How fast this start of a run is, which says how long it takes yet: what earlier starts did counts for nothing.

    A step's seconds are a mean in which what is HALF_LIFE_S old counts half; evaluating and saving between two epochs
    have a mean of their own. The first step of a start, which waits for workers and compilers, is left out.
    """

    HALF_LIFE_S = 60.0

    def __init__(self, run_length: RunLength, clock: Callable[[], float] = time.monotonic) -> None:
        self._run_length, self._clock = run_length, clock
        self._last: float | None = None
        self._seconds = self._steps = 0.0
        self._between = 0.0
        self._turns = 0

    def note(self, step: int) -> None:
        """Update number `step` of the run, from 1, is done."""
        now = self._clock()
        if self._last is not None:
            seconds = now - self._last
            if (step - 1) % self._run_length.steps_per_epoch == 0:
                self._between, self._turns = self._between + seconds, self._turns + 1
            else:
                keep = 0.5 ** (seconds / self.HALF_LIFE_S)
                self._seconds, self._steps = keep * self._seconds + seconds, keep * self._steps + 1.0
        self._last = now

    def seconds_left(self, step: int, until: int) -> float | None:
        """From after update `step` to after update `until`; None while no speed is known."""
        if not self._steps and not self._turns:
            return None
        a_step = self._seconds / self._steps if self._steps else 0.0
        a_turn = self._between / self._turns if self._turns else a_step
        length = self._run_length.steps_per_epoch
        turns = -(-until // length) - -(-step // length)  # epochs that begin on the way
        return (until - step - turns) * a_step + turns * a_turn


class LineDisplay:
    """For a log file: a line an epoch, and within one a line every `line_seconds` at most."""

    def __init__(self, run_length: RunLength, shown: Console, line_seconds: float) -> None:
        self._run_length, self._console, self._estimate = run_length, shown, TimeEstimate(run_length)
        self._line_seconds, self._line_at = line_seconds, time.monotonic()
        self._step, self._figures, self._best = 0, dict[str, Any](), None

    def begin(self) -> None:
        """Before the first event."""

    def end(self) -> None:
        """After the last."""

    def advance(self, step: int) -> None:
        """Update number `step`, from 1, is done."""
        self._step = step
        self._estimate.note(step)

    def evaluation_progress(self, done: int, total: int) -> None:
        """So many of this process's batches of the valid split are done."""

    def event(self, kind: str, step: int, values: Figures) -> None:
        """As it goes to metrics.jsonl."""
        if kind == "start":
            self._step, self._best = step, values["best"]
        elif kind == "step":
            self._figures = dict(values)
            self._say_step(step, values)
        elif kind == "epoch":
            found = values.get("ema_valid_accuracy", values.get("valid_accuracy"))
            self._best = max((value for value in (self._best, found) if value is not None), default=None)
            self._say(f"epoch {values['epoch'] + 1}/{self._run_length.epochs}", _OF_EPOCH, values)

    def _say_step(self, step: int, values: Figures) -> None:
        if time.monotonic() - self._line_at >= self._line_seconds and step % self._run_length.steps_per_epoch:
            head = f"step {step}/{self._run_length.steps}  epoch {values['epoch'] + 1}/{self._run_length.epochs}"
            left = self._estimate.seconds_left(step, self._run_length.steps)
            self._say(head, _OF_LINE, values, f"ETA {format_duration(left)}")

    def _say(self, head: str, forms: Mapping[str, str], values: Figures, tail: str = "") -> None:
        shown = [form.format(values[name]) for name, form in forms.items() if name in values]
        self._console.print("  ".join([head, *shown, tail]).rstrip())
        self._line_at = time.monotonic()


class LiveDisplay(LineDisplay):
    """For a terminal: a bar for the epoch (or its evaluation), one for the run, figures beneath; messages above."""

    def __init__(self, run_length: RunLength, shown: Console, line_seconds: float) -> None:
        super().__init__(run_length, shown, line_seconds)
        self._evaluated: tuple[int, int] | None = None
        self._began = self._epoch_began = time.monotonic()
        self._live = Live(
            console=shown, get_renderable=self.render, refresh_per_second=_REFRESHES_PER_S, transient=True
        )

    def begin(self) -> None:
        """Starts the thread that draws."""
        self._live.start()

    def end(self) -> None:
        """The bars go, the messages stay."""
        self._live.stop()

    def advance(self, step: int) -> None:
        """Update number `step`, from 1, is done."""
        super().advance(step)
        self._evaluated = None
        if (step - 1) % self._run_length.steps_per_epoch == 0:
            self._epoch_began = time.monotonic()

    def evaluation_progress(self, done: int, total: int) -> None:
        """So many of this process's batches of the valid split are done."""
        if self._evaluated is None:
            self._evaluation_began = time.monotonic()
        self._evaluated = done, total

    def _say_step(self, step: int, values: Figures) -> None:
        """Nothing: the figures are on the screen."""

    def render(self) -> Group:
        """Bars and figures as they are now."""
        bars = Table.grid(padding=(0, 1), expand=True)
        bars.add_column(no_wrap=True)
        bars.add_column(ratio=1)
        for _ in range(4):
            bars.add_column(justify="right", no_wrap=True)
        now, step, run_length = time.monotonic(), self._step, self._run_length
        bars.add_row(*self._upper_bar(now))
        left = self._estimate.seconds_left(step, run_length.steps)
        bars.add_row("run", *_bar(step, run_length.steps, now - self._began, left))
        return Group(bars, self._table())

    def _upper_bar(self, now: float) -> tuple[Any, ...]:
        """The epoch's, or while it is evaluated that one's."""
        length, step = self._run_length.steps_per_epoch, self._step
        evaluated = self._evaluated
        number = min(step // length + (evaluated is None), self._run_length.epochs)
        if evaluated:
            done, total = evaluated
            spent = now - self._evaluation_began
            left = spent * (total - done) / done if done else None
            return (f"valid {number}/{self._run_length.epochs}", *_bar(done, total, spent, left))
        done = step - (number - 1) * length
        left = self._estimate.seconds_left(step, number * length)
        return (f"epoch {number}/{self._run_length.epochs}", *_bar(done, length, now - self._epoch_began, left))

    def _table(self) -> Table:
        """The newest figures, in one row; a narrow terminal gets fewer."""
        figures = {**self._figures, "best": self._best}
        left_out = set() if "gpu_gb" in figures else {"gpu_gb"}
        if self._console.width < _WIDE:
            left_out |= {"lr", "data_wait"}
        table = Table(box=None, padding=(0, 1), header_style="dim")
        cells = []
        for name, (head, form) in _COLUMNS.items():
            if name not in left_out:
                value = figures.get(name)
                table.add_column(head, justify="right", no_wrap=True)
                cells.append("-" if value is None else form.format(value))
        table.add_row(*cells, style="bold")
        return table


def _bar(done: int, total: int, spent: float, left: float | None) -> tuple[Any, ...]:
    """Cells of a row: bar, how many, how long so far, how long yet."""
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


def make_display(run_length: RunLength, shown: Console, line_seconds: float) -> LineDisplay:
    """A LiveDisplay where `shown` is a terminal that can move its cursor, else LineDisplay."""
    screen = shown.is_terminal and not shown.is_dumb_terminal and not shown.quiet
    return (LiveDisplay if screen else LineDisplay)(run_length, shown, line_seconds)
