"""Where the time goes, in the log of a run: the parts of a step, all ranks side by side, and stragglers.

rank 0's seconds by part --+
rank 1's seconds by part --+-- one gather of 9 numbers a rank, started with a line of the log and read after the
...                            step that follows, so that no rank and no device waits for it
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from kws.distributed.ranks import PendingGather, Ranks
from kws.run import folder as run_folder
from kws.run.log import RunLog
from kws.run.step_parts import PARTS, rounded
from kws.run.stragglers import StragglerDetector
from kws.training.step_times import StepTimes

_RANKS_A_LINE = 16
"""Of W ranks, every (W / 16)-th line of the log has their times: more would be megabytes an epoch with 1,000 ranks."""


@dataclasses.dataclass
class TimeLog:
    """All ranks call the methods together; rank 0 writes. `hosts`: of each rank, (W,); `step`: the steps done so far;
    `say` prints a line."""

    times: StepTimes
    ranks: Ranks
    hosts: Sequence[str]
    log: RunLog
    folder: Path
    say: Callable[[str], object]
    step: int

    def __post_init__(self) -> None:
        self._detector = StragglerDetector(self.hosts)
        self._pending: tuple[int, PendingGather] | None = None  # steps
        self._unwritten: list[tuple[int, dict[str, list[float]]]] = []  # steps, part -> seconds of each rank

    def parts(self) -> dict[str, float]:
        """Seconds by part since the previous call of this or of `step_line`, for a line of the log."""
        return rounded(self.times.take())

    def step_line(self, step: int) -> dict[str, float]:
        """The same, for the line of step number `step` (counted from 1); starts to gather those of all ranks."""
        self.finish()
        seconds = self.times.take()
        if self.ranks.world_size > 1:
            self._pending = step - self.step, self.ranks.start_gather([seconds[part] for part in PARTS])
        self.step = step
        return rounded(seconds)

    def finish(self, write: bool = False) -> None:
        """Takes the times that `step_line` began to gather. `write`: writes them even if a line of them is not due."""
        if self._pending:
            (steps, gathered), self._pending = self._pending, None
            rows = gathered.result()
            if self.ranks.is_main:
                self._add_line(steps, rows)
        due = len(self._unwritten) >= max(1, self.ranks.world_size // _RANKS_A_LINE)
        if self._unwritten and (due or write):
            self._write_ranks()

    def _add_line(self, steps: int, rows: list[list[float]]) -> None:
        """`rows`: seconds of each rank by part, (W, len(PARTS)), over `steps` steps."""
        seconds = {part: [row[place] for row in rows] for place, part in enumerate(PARTS)}
        self._unwritten.append((steps, seconds))
        self._report_stragglers(steps, seconds)

    def _write_ranks(self) -> None:
        lines, self._unwritten = self._unwritten, []
        columns = {
            part: [round(sum(own), 6) for own in zip(*(seconds[part] for _, seconds in lines), strict=True)]
            for part in PARTS
        }
        used = {part: column for part, column in columns.items() if any(column)}
        self.log.event("ranks", self.step, steps=sum(steps for steps, _ in lines), seconds=used)

    def _report_stragglers(self, steps: int, seconds: dict[str, list[float]]) -> None:
        changes = self._detector.add(steps, seconds)
        for change in changes:
            self.log.event("straggler", self.step, **dataclasses.asdict(change))
            self.say(f"note: {change.text()}")
        if changes:
            run_folder.note_stragglers(self.folder, [straggler.text() for straggler in self._detector.present])
