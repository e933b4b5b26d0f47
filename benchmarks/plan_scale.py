"""What planning costs one rank of 1,024 over 100 million clips in 10,000 shards: seconds, memory, resuming.

    python benchmarks/plan_scale.py [--quick] [--data DIR]

A rank opens the index, builds the plan of an epoch and walks all its slots, in a process of its own, for its peak
memory. Then resuming at 0 %, 50 % and 99 % of the epoch: index and plan anew, the first slot, and the slots after it
(as many everywhere). A window lies in one shard or in two, by chance, so that is the mean over many ranks.
Bars: 10 s, 1 GB, 1.1 times. Also a task: of five words in seven a tenth as many clips as of the others,
chosen by their names before the plan.

The clips are synthetic: an index of columns in a temporary folder, with words by a formula, rarer with their number.
Without --data, which takes a packed corpus's training split instead (1,024 ranks all the same).
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
"""Of which the fastest counts: other programs on the machine only ever add."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much to measure: clips, shards, and ranks over which resuming is averaged."""

    clips: int
    shards: int
    ranks: int


def make_split(folder: Path, scale: Scale) -> None:
    """Writes the columns word and name, and the cells; the other columns stay holes in their files."""
    for name, dtype in index.COLUMNS.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (scale.clips,))
    words, names = (np.lib.format.open_memmap(folder / f"{name}.npy", "r+") for name in ("word", "name"))
    cells = np.zeros((scale.shards, CLASSES), np.uint32)
    edges = np.linspace(0, scale.clips, scale.shards + 1).astype(np.int64)
    for number, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
        # Squares of evenly spread numbers: the first word has about 17 times the clips of the last.
        spread = (np.arange(low, high) * 0.6180339887498949) % 1.0
        words[low:high] = (spread**2 * CLASSES).astype(np.uint32)
        names[low:high] = counter_rng.bits(np.arange(low, high), 1, "name")[:, 0]
        cells[number] = np.bincount(words[low:high], minlength=CLASSES)
    np.save(folder / "cells.npy", cells)


def load_split(folder: Path) -> index.Split:
    """The made split, memory-mapped, as `kws.data.index` would load it."""
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
    """Made by us, or the training split of a packed corpus."""
    return index.load(place).split("train") if (place / "index").is_dir() else load_split(place)


def recipe_of(mode: Mode) -> PlanSettings:
    """One slot a rank."""
    return PlanSettings(mode, slots=RANKS, micro_batch=MICRO_BATCH, seed=0)


def of_task(split: index.Split) -> tuple[index.Split, list[int]]:
    """Of five words in seven a tenth as many clips as of the others, and each word's class."""
    words = split.cells.shape[1]
    first = words * 5 // 7
    others = np.arange(words) < first
    choice, cells = selection.choose_unknown(
        split, others, tasks.rounded_share(0.1, int(split.cells[:, first:].sum())), ("plan_scale",)
    )
    class_of = [max(0, word - first + 1) for word in range(words)]
    return selection.TaskSplit(split.name, split.shards, split.columns, cells, choice), class_of


def one_epoch(place: Path, mode: Mode, rank: int, task: bool = False) -> dict[str, float]:
    """One rank's epoch. Run in a fresh process: peak memory is the process's."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    split = split_at(place)
    opened = time.perf_counter()
    class_of: Sequence[int] = range(split.cells.shape[1])
    if task:
        split, class_of = of_task(split)
    plan = Plan(split, class_of, recipe_of(mode), epoch=0)
    built = time.perf_counter()
    clips = sum(len(slot.clips) for slot in plan.rank_slots(rank, RANKS))
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "open_s": opened - start, "build_s": built - opened, "walk_s": end - built, "seconds": end - start,
        "clips": clips, "peak_gb": peak * 1024 / 1e9, "imports_gb": before * 1024 / 1e9,
    }  # fmt: skip


def resume_costs(place: Path, mode: Mode, ranks: int) -> dict[str, list[float]]:
    """Seconds from nothing to the same number of slots from each of POSITIONS, mean over ranks: all, and the slots."""
    costs = np.full((ranks, len(POSITIONS), 2), np.inf)
    for turn in range(ranks * REPEATS):
        for which in np.roll(np.arange(len(POSITIONS)), turn):  # in turns: no position is always the first
            cost = resume_once(place, mode, turn % ranks * RANKS // ranks, POSITIONS[which])
            costs[turn % ranks, which] = np.minimum(cost, costs[turn % ranks, which])
    everything, slots = costs.mean(axis=0).T.tolist()
    return {"all": everything, "slots": slots}


def resume_once(place: Path, mode: Mode, rank: int, position: float) -> tuple[float, float]:
    """Seconds to open the index, build the plan and reach as many slots as are left at the last of POSITIONS.

    The second number is the slots' part alone: one window, or two where they lie across an edge, so 2 ms more or less.
    """
    start = time.perf_counter()
    split = split_at(place)
    plan = Plan(split, range(split.cells.shape[1]), recipe_of(mode), epoch=0)
    built = time.perf_counter()
    slots = plan.rank_slots(rank, RANKS, int(position * plan.steps))
    for _ in range(max(1, plan.steps - int(POSITIONS[-1] * plan.steps))):
        next(slots)
    return time.perf_counter() - start, time.perf_counter() - built


def alone(function: Any, *arguments: Any) -> Any:
    """The function's value, from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(place: Path, scale: Scale) -> dict[str, Any]:
    """All modes, and one with a task; the keys without a mode are the worst of them."""
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
    """The table for people."""
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
    """Prints the table, and last one JSON object with seconds, peak_gb and resume_ratio."""
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
