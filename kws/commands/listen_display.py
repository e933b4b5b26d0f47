"""What `kws listen` shows on a terminal: a bar for each word, the level of the microphone, and the events so far.

The lines of events stay above the bars, which are drawn anew a few times a second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kws.commands.terminal import meter
from kws.streaming.near_misses import SHARE

Floats = npt.NDArray[np.float64]
_DRAWS_PER_S = 8  # of 4 ms each
_HOLD_S = 1.0
"""How long the highest value of a bar stays marked."""
_BAR, _NAME = 20, 14
_COLUMN = _NAME + _BAR + 15
"""Width of bars, of names and of both with numbers."""
_OTHER_LINES = 6
"""Lines of the terminal that are left for the level and the last events."""


class ScoreBars:
    """The scores of all words as bars: now, the highest of the last second, and the threshold."""

    def __init__(self, words: Sequence[str], thresholds: Floats) -> None:
        self._words, self._thresholds = words, thresholds
        self._now, self._highest = np.zeros(len(words)), np.zeros(len(words))
        self._highest_at_s = np.full(len(words), -math.inf)

    def push(self, time_s: float, scores: Floats) -> None:
        """The (W,) scores at that time."""
        renewed = (scores >= self._highest) | (time_s - self._highest_at_s > _HOLD_S)
        self._highest = np.where(renewed, scores, self._highest)
        self._highest_at_s = np.where(renewed, time_s, self._highest_at_s)
        self._now = scores

    def table(self, width: int, height: int) -> Table:
        """The bars, in as many columns as `height` lines need and `width` characters have room for. Where there is too
        little room for all words, those with the highest scores."""
        columns = min(max(1, width // _COLUMN), math.ceil(len(self._words) / max(1, height)))
        rows = min(max(1, height), math.ceil(len(self._words) / columns))
        shown = np.sort(np.argsort(-self._highest, kind="stable")[: rows * columns]).tolist()
        table = Table.grid(padding=(0, 2))
        for row in range(rows):
            table.add_row(*map(self._bar, shown[row::rows]))
        return table

    def _bar(self, place: int) -> Text:
        now, highest, threshold = (float(values[place]) for values in (self._now, self._highest, self._thresholds))
        filled, peak, mark = (min(_BAR, round(value * _BAR)) for value in (now, highest, threshold))
        bar = ["█" if at < filled else "▒" if at < peak else "│" if at + 1 == mark else "·" for at in range(_BAR)]
        style = "bold green" if highest >= threshold else "yellow" if highest >= SHARE * threshold else ""
        return Text(f"{self._words[place][:_NAME]:>{_NAME}} {''.join(bar)} {now:4.0%} ({highest:.0%})", style)


class ListenDisplay:
    """The bars and the level, below the lines of events. Draws inside a with statement."""

    def __init__(self, bars: ScoreBars, console: Console) -> None:
        self.bars, self._console, self._drawn_at = bars, console, 0.0
        self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def add_line(self, line: str) -> None:
        """Writes a line above the bars, where it stays."""
        self._console.print(line, markup=False, highlight=False)

    def draw(self, status: str, level_db: float) -> None:
        """Draws bars, status and level, unless they were drawn just before."""
        now = time.monotonic()
        if now - self._drawn_at < 1 / _DRAWS_PER_S:
            return
        self._drawn_at, size = now, self._console.size
        bars = self.bars.table(size.width, size.height - _OTHER_LINES)
        self._live.update(Group(bars, Text(f"{meter(level_db)}  {status}", no_wrap=True)), refresh=True)
