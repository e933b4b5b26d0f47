"""The cost of the sampling plan for one rank of 1,024, with 100 million clips in 10,000 shards: time and memory.

    python benchmarks/plan_scale.py [--quick] [--data DIR]

In its own process, which gives its peak memory, a rank opens the index, builds the plan of an epoch and iterates over
all its slots. Then it resumes at 0 %, 50 % and 99 % of the epoch: index and plan are loaded again, then the first slot
and equally many slots after it are read. A shuffle window lies in one shard or in two, so this is the mean over many
ranks. Targets: 10 s, 1 GB, a ratio of 1.1. Also measured with a task that keeps a tenth of the clips of five words in
seven, selected by their names.

The clips are synthetic: an index of columns in a temporary folder, with words of decreasing frequency. With --data, the
train split of a packed corpus is used instead (also for 1,024 ranks).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from kws import counter_rng
from kws.corpus import tasks
from kws.data import index, selection
from kws.data.plan import Mode, Plan, PlanSettings

CLASSES, RANKS, MICRO_BATCH = 35, 1024, 64
MODES: tuple[Mode, ...] = ("balanced", "natural", "weighted", "power")
POSITIONS = (0.0, 0.5, 0.99)
REPEATS = 3
"""Rounds, of which the fastest counts, because other programs can only slow it down."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much to measure: clips, shards, and the number of ranks over which resuming is averaged."""

    clips: int
    shards: int
    ranks: int


def make_split(folder: Path, scale: Scale) -> None:
    """Writes the columns word and name, and the cells; the files of the other columns stay empty (sparse)."""
    for name, dtype in index.COLUMNS.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (scale.clips,))
    words, names = (np.lib.format.open_memmap(folder / f"{name}.npy", "r+") for name in ("word", "name"))
    cells = np.zeros((scale.shards, CLASSES), np.uint32)
    edges = np.linspace(0, scale.clips, scale.shards + 1).astype(np.int64)
    for number, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
        # Squares of uniform numbers: the first word has about 17 times the clips of the last.
        spread = (np.arange(low, high) * 0.6180339887498949) % 1.0
        words[low:high] = (spread**2 * CLASSES).astype(np.uint32)
        names[low:high] = counter_rng.bits(np.arange(low, high), 1, "name")[:, 0]
        cells[number] = np.bincount(words[low:high], minlength=CLASSES)
    np.save(folder / "cells.npy", cells)


def load_split(folder: Path) -> index.Split:
    """The synthetic split, memory-mapped, as `kws.data.index` would load it."""
    columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in index.COLUMNS}
    cells = np.load(folder / "cells.npy", mmap_mode="r")
    sizes = cells.sum(axis=1)
    starts = np.cumsum(sizes) - sizes
    shards = tuple(
        index.Shard(f"train/{number:06d}.tar", 0, int(size), int(start), "0" * 64)
        for number, (size, start) in enumerate(zip(sizes, starts, strict=True))
    )
    return index.Split("train", shards, columns, cells)


def split_at(place: Path) -> index.Split:
    """The synthetic split, or the train split of a packed corpus."""
    return index.load(place).split("train") if (place / "index").is_dir() else load_split(place)


def plan_settings_of(mode: Mode) -> PlanSettings:
    """Plan settings with one slot per rank."""
    return PlanSettings(mode, slots=RANKS, micro_batch=MICRO_BATCH, seed=0)


def with_task(split: index.Split) -> tuple[index.Split, list[int]]:
    """A split that keeps a tenth of the clips of five words in seven, and the class of each word."""
    words = split.cells.shape[1]
    first = words * 5 // 7
    others = np.arange(words) < first
    choice, cells = selection.choose_unknown(
        split, others, tasks.rounded_share(0.1, int(split.cells[:, first:].sum())), ("plan_scale",)
    )
    class_of = [max(0, word - first + 1) for word in range(words)]
    return selection.TaskSplit(split.name, split.shards, split.columns, cells, choice), class_of


def one_epoch(place: Path, mode: Mode, rank: int, task: bool = False) -> dict[str, float]:
    """The epoch of one rank. Runs in a new process, whose peak memory is the result."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    split = split_at(place)
    opened = time.perf_counter()
    class_of: Sequence[int] = range(split.cells.shape[1])
    if task:
        split, class_of = with_task(split)
    plan = Plan(split, class_of, plan_settings_of(mode), epoch=0)
    built = time.perf_counter()
    clips = sum(len(slot.clips) for slot in plan.rank_slots(rank, RANKS))
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "open_s": opened - start, "build_s": built - opened, "walk_s": end - built, "seconds": end - start,
        "clips": clips, "peak_gb": peak * 1024 / 1e9, "imports_gb": before * 1024 / 1e9,
    }  # fmt: skip


def resume_costs(place: Path, mode: Mode, ranks: int) -> dict[str, list[float]]:
    """Seconds to read the same number of slots from each of POSITIONS, mean over ranks: in total, and for the slots."""
    costs = np.full((ranks, len(POSITIONS), 2), np.inf)
    for turn in range(ranks * REPEATS):
        for which in np.roll(np.arange(len(POSITIONS)), turn):  # in rotation, so that no position is always the first
            cost = resume_once(place, mode, turn % ranks * RANKS // ranks, POSITIONS[which])
            costs[turn % ranks, which] = np.minimum(cost, costs[turn % ranks, which])
    everything, slots = costs.mean(axis=0).T.tolist()
    return {"all": everything, "slots": slots}


def resume_once(place: Path, mode: Mode, rank: int, position: float) -> tuple[float, float]:
    """Seconds to open the index, build the plan and read as many slots as are left after the last of POSITIONS.

    The second number is for the slots alone; it differs by about 2 ms where a window lies in two shards.
    """
    start = time.perf_counter()
    split = split_at(place)
    plan = Plan(split, range(split.cells.shape[1]), plan_settings_of(mode), epoch=0)
    built = time.perf_counter()
    slots = plan.rank_slots(rank, RANKS, int(position * plan.steps))
    for _ in range(max(1, plan.steps - int(POSITIONS[-1] * plan.steps))):
        next(slots)
    return time.perf_counter() - start, time.perf_counter() - built


def alone(function: Any, *arguments: Any) -> Any:
    """Calls the function in a new process and returns its result."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(place: Path, scale: Scale) -> dict[str, Any]:
    """Measures all modes, and one with a task; keys without a mode are the maximum over the modes."""
    epochs: dict[str, dict[str, float]] = {mode: alone(one_epoch, place, mode, RANKS // 3) for mode in MODES}
    resumes: dict[str, dict[str, list[float]]] = {mode: alone(resume_costs, place, mode, scale.ranks) for mode in MODES}
    task: dict[str, float] = alone(one_epoch, place, MODES[0], RANKS // 3, True)
    return {
        "seconds": max(epoch["seconds"] for epoch in (*epochs.values(), task)),
        "peak_gb": max(epoch["peak_gb"] for epoch in (*epochs.values(), task)),
        "resume_ratio": max(max(costs["all"]) / costs["all"][0] for costs in resumes.values()),
        "resume_seconds": resumes,
        "modes": epochs,
        "task": task,
    }


def show(facts: dict[str, Any], what: str) -> None:
    """Prints the table."""
    table = Table("mode", "open s", "build s", "walk s", "all s", "peak GB", "clips", "0 %", "50 %", "99 %", title=what)
    for mode, row in {**facts["modes"], "task": facts["task"]}.items():
        costs = (f"{1000 * cost:.0f} ms" for cost in facts["resume_seconds"].get(mode, {"all": ()})["all"])
        parts = (f"{row[key]:.2f}" for key in ("open_s", "build_s", "walk_s", "seconds", "peak_gb"))
        table.add_row(mode, *parts, f"{row['clips']:,}", *costs)
    table.caption = (
        f"bars: 10 s, 1 GB (imports alone {row['imports_gb']:.2f}), resume 1.1 times; "
        f"found {facts['seconds']:.2f} s, {facts['peak_gb']:.2f} GB, {facts['resume_ratio']:.2f} times"
    )
    Console(width=110).print(table)


def main() -> None:
    """Prints the table, and as the last line one JSON object with seconds, peak_gb and resume_ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus instead of 100 million synthetic clips")
    parser.add_argument("--quick", action="store_true", help="10 million clips in 1,000 shards")
    arguments = parser.parse_args()
    scale = Scale(10_000_000, 1_000, 12) if arguments.quick else Scale(100_000_000, 10_000, 32)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            alone(make_split, Path(folder), scale)
        facts = measure(arguments.data or Path(folder), scale)
    what = str(arguments.data) if arguments.data else f"{scale.clips:,} clips, {scale.shards:,} shards"
    show(facts, f"{what}, {CLASSES} classes, 1 of {RANKS:,} ranks")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
