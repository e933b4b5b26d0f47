"""Runs that differ in `train.seed` alone, as one result: mean and standard deviation, and how far groups are apart.

group of a comparison (ComparedRun, same test set) -> SeedGroup, best mean first -> difference to the best with interval
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kws import metrics
from kws.config import Config
from kws.settings_file import FREE_TO_CHANGE

Flags = npt.NDArray[np.bool_]


class SeededRun(Protocol):
    """What is needed of a run: folder, settings, accuracy."""

    @property
    def run(self) -> Path: ...
    @property
    def config(self) -> Config: ...
    @property
    def accuracy(self) -> float: ...


R = TypeVar("R", bound=SeededRun)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean accuracy of a group minus that of the best group: fractions, with the 95 % interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class SeedGroup(Generic[R]):
    """Two or more runs with different seeds and otherwise equal settings, by seed.

    difference: to the group with the best mean; None for that one, and where the results of the single clips are
    missing. repeated: runs with a seed that another one has; they are not counted.
    """

    runs: tuple[R, ...]
    repeated: tuple[R, ...] = ()
    difference: Difference | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in rising order."""
        return tuple(line.config.train.seed for line in self.runs)

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return mean(line.accuracy for line in self.runs)

    @property
    def deviation(self) -> float:
        """Standard deviation of the accuracy between seeds (of a sample: divided by one less than the number)."""
        return stdev(line.accuracy for line in self.runs)


def seed_groups(lines: Sequence[R], recognised: Callable[[R], Flags | None]) -> tuple[SeedGroup[R], ...]:
    """The groups of two or more among runs with one test set, best mean first; a single run is in none.

    recognised: which clips a run recognised (n,), in the same order for all runs; None where that is not known.
    """
    found: dict[str, list[R]] = {}
    for line in lines:
        found.setdefault(_settings(line.config), []).append(line)
    groups = sorted((group for group in map(_group, found.values()) if group), key=lambda group: -group.mean)
    if not groups:
        return ()
    best = _clips(groups[0], recognised)
    return (groups[0], *(_compared(group, best, recognised) for group in groups[1:]))


def _settings(config: Config) -> str:
    """All settings that decide what a run computes, but the seed, as a text to compare."""
    sections = dataclasses.asdict(config)
    kept = {
        f"{section}.{name}": value
        for section, values in sections.items()
        for name, value in values.items()
        if f"{section}.{name}" not in FREE_TO_CHANGE | {"train.seed"}
    }
    return json.dumps(kept, sort_keys=True, default=str)


def _group(lines: Sequence[R]) -> SeedGroup[R] | None:
    by_seed: dict[int, R] = {}
    repeated = [line for line in lines if by_seed.setdefault(line.config.train.seed, line) is not line]
    runs = tuple(by_seed[seed] for seed in sorted(by_seed))
    return SeedGroup(runs, tuple(repeated)) if len(runs) > 1 else None


def _clips(group: SeedGroup[R], recognised: Callable[[R], Flags | None]) -> Flags | None:
    """(runs, n)."""
    rows = [recognised(line) for line in group.runs]
    known = [row for row in rows if row is not None]
    same = len(known) == len(rows) and len({len(row) for row in known}) == 1
    return np.stack(known) if same else None


def _compared(group: SeedGroup[R], best: Flags | None, recognised: Callable[[R], Flags | None]) -> SeedGroup[R]:
    own = _clips(group, recognised)
    if best is None or own is None or own.shape[1] != best.shape[1]:
        return group
    return dataclasses.replace(group, difference=Difference(*metrics.difference_of_means(own, best)))
