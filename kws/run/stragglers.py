"""Which rank the others wait for: the ranks' busy times, line of the log by line, -> notes that name a straggler.

    rank 5 on node3: 1.4 x the median for 200 steps, most of it in data; the other ranks wait 26 % of the time

A rank is a straggler while, in most of the last lines, it was busy SLOW times as long as the median rank, and the wait
for it is WORTH_NAMING of the time. With two ranks the median is the faster one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median, median_low
from typing import NamedTuple

from kws.run.step_parts import BUSY_PARTS, LABELS, busy_seconds

SLOW, NO_LONGER_SLOW = 1.25, 1.15
"""Ratios to the median at which a rank becomes a straggler and is one no longer."""
WORTH_NAMING = 0.05
WINDOW_LINES, WINDOW_STEPS, WINDOW_S = 3, 10, 5.0
"""A judgement needs so many lines of the log, steps and seconds: shorter times depend on chance."""

RankSeconds = Mapping[str, Sequence[float]]
"""Part of a step -> seconds of each rank, (W,)."""


@dataclasses.dataclass(frozen=True)
class RankShare:
    """A rank beside the others over some steps. `ratio`: its busy time to that of the median rank; `part`: where it
    lost most against the median rank; `wait`: the fraction of the time that the median rank waits for it."""

    rank: int
    busy: float
    """Seconds."""
    ratio: float
    part: str
    wait: float


def compare_ranks(seconds: RankSeconds) -> list[RankShare]:
    """One share a rank, in order of rank."""
    busy = busy_seconds(seconds)
    usual, ratios = median_low(busy), _ratios_to_median(busy)
    whole = max(sum(of_rank) for of_rank in zip(*seconds.values(), strict=True))
    medians = {part: median_low(seconds[part]) for part in BUSY_PARTS if part in seconds}
    return [
        RankShare(
            rank=rank,
            busy=own,
            ratio=ratios[rank],
            part=max(medians, key=lambda part: seconds[part][rank] - medians[part]),
            wait=max(0.0, own - usual) / whole if whole > 0.0 else 0.0,
        )
        for rank, own in enumerate(busy)
    ]


@dataclasses.dataclass(frozen=True)
class Straggler:
    """A change to report. `slow`: whether the rank is a straggler now, or was one until now; `steps`: for how many
    steps; the others as in RankShare."""

    rank: int
    host: str
    slow: bool
    ratio: float
    steps: int
    part: str
    wait: float

    def text(self) -> str:
        """One line for people."""
        name = f"rank {self.rank} on {self.host}"
        if not self.slow:
            return f"{name}: as fast as the median again, after {self.steps:,} steps"
        lost = f"most of it in {LABELS.get(self.part, self.part)}; the other ranks wait {self.wait:.0%} of the time"
        return f"{name}: {self.ratio:.1f} x the median for {self.steps:,} steps, {lost.replace('%', ' %')}"


def _ratios_to_median(busy: Sequence[float]) -> list[float]:
    """(W,) seconds -> (W,)."""
    usual = median_low(busy)
    return [own / usual if usual > 0.0 else 1.0 for own in busy]


class _Line(NamedTuple):
    """A line of the log over `steps` steps. `spent`: its length in seconds. `ratios`: busy time of each rank to that of
    the median rank, (W,)."""

    steps: int
    seconds: RankSeconds
    spent: float
    ratios: list[float]


class StragglerDetector:
    """Takes the times of all ranks line by line. `hosts`: the host of each rank, (W,)."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._lines: deque[_Line] = deque()
        self._steps_slow: dict[int, int] = {}
        self._reported: dict[int, Straggler] = {}

    @property
    def present(self) -> list[Straggler]:
        """The stragglers of now, as last reported, in order of rank."""
        return [self._reported[rank] for rank in sorted(self._reported)]

    def add(self, steps: int, seconds: RankSeconds) -> list[Straggler]:
        """Adds a line over `steps` steps. Returns the changes to report: a new straggler; one whose part changed, whose
        excess doubled or halved, or that has lasted ten times as long as when it was last reported; a former one."""
        spent = sum(of_part[0] for of_part in seconds.values())
        self._lines.append(_Line(steps, seconds, spent, _ratios_to_median(busy_seconds(seconds))))
        while self._is_long_enough(without=1):
            self._lines.popleft()
        if not self._is_long_enough():
            return []
        changes = [self._judge(share, steps) for share in self._shares_of_window()]
        return [change for change in changes if change is not None]

    def _is_long_enough(self, without: int = 0) -> bool:
        """Whether the lines are enough for a judgement, `without` so many of the oldest."""
        lines = list(itertools.islice(self._lines, without, None))
        steps, spent = sum(line.steps for line in lines), sum(line.spent for line in lines)
        return len(lines) >= WINDOW_LINES and steps >= WINDOW_STEPS and spent >= WINDOW_S

    def _shares_of_window(self) -> list[RankShare]:
        """Shares over all lines, with the median of the lines' ratios: one slow moment makes no straggler."""
        total = {
            part: [sum(of_rank) for of_rank in zip(*(line.seconds[part] for line in self._lines), strict=True)]
            for part in self._lines[0].seconds
        }
        ratios = [median(of_rank) for of_rank in zip(*(line.ratios for line in self._lines), strict=True)]
        return [
            dataclasses.replace(share, ratio=ratio) for share, ratio in zip(compare_ranks(total), ratios, strict=True)
        ]

    def _judge(self, share: RankShare, steps: int) -> Straggler | None:
        rank, before = share.rank, self._reported.get(share.rank)
        limit, worth = (SLOW, WORTH_NAMING) if before is None else (NO_LONGER_SLOW, WORTH_NAMING / 2)
        if share.ratio < limit or share.wait < worth:
            lasted = self._steps_slow.pop(rank, 0)
            self._reported.pop(rank, None)
            return dataclasses.replace(before, slow=False, steps=lasted) if before else None
        first = sum(line.steps for line in self._lines)
        self._steps_slow[rank] = self._steps_slow[rank] + steps if rank in self._steps_slow else first
        now = Straggler(
            rank, self._hosts[rank], True, share.ratio, self._steps_slow[rank], share.part, share.wait
        )  # fmt: skip
        if before is not None and not _is_news(before, now):
            return None
        self._reported[rank] = now
        return now


def _is_news(before: Straggler, now: Straggler) -> bool:
    growth = (now.ratio - 1.0) / (before.ratio - 1.0)
    return now.part != before.part or not 0.5 < growth < 2.0 or now.steps >= 10 * before.steps
