"""Which clip every slot of every step reads: synchronised weighted sampling, as a pure function of numbers.

    counts (class x shard)  ->  a shard's draws  ->  shards in random order, end to end  ->  M lanes
                                                     ->  each lane shuffled inside windows  ->  slots

Every rank computes the same plan and reads its own slots of it; no rank asks another, and nothing depends on how
many ranks or loader workers there are. Counts are drawn for (class, shard) cells; a clip is drawn only when its
shard is reached, so cost and memory follow a rank's own share and not the corpus.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.config import Config
from kws.data.index import Split
from kws.errors import UsageError

Mode = Literal["natural", "balanced", "weighted", "power"]
Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """What a plan hangs on, beside the corpus: clips an epoch (0: the split's), slots, micro-batch, seed."""

    mode: Mode
    slots: int
    micro_batch: int
    seed: int
    epoch_clips: int = 0
    window: int = 4096
    alpha: float = 0.5

    @classmethod
    def of(cls, config: Config) -> PlanSettings:
        """As the settings say."""
        data, train = config.data, config.train
        numbers = (train.slots, train.micro_batch, train.seed, data.epoch_clips, data.window, data.alpha)
        return cls(data.sampling, *numbers)


@dataclasses.dataclass(frozen=True)
class Slot:
    """What slot `slot` of step `step` (within the epoch) reads: draw numbers and clip ids, both (micro_batch,)."""

    step: int
    slot: int
    draws: Ids
    clips: Ids


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The shards (numbers in their split) that are read from step `start` to before step `end`."""

    start: int
    end: int
    shards: tuple[int, ...]


class Plan:
    """One epoch. `class_of` gives each word's class, -1 for words outside the task.

    `steps` is the epoch's number of steps, `clips` its number of draws. Raises UsageError where no clip is left.
    """

    def __init__(self, split: Split, class_of: Sequence[int], recipe: PlanSettings, epoch: int) -> None:
        self._split, self._recipe, self._epoch = split, recipe, epoch
        self._class_of = np.asarray(class_of, dtype=np.int64)
        cells = _class_cells(split.cells, self._class_of)  # (shards, classes)
        if cells.sum() == 0:
            raise UsageError(f"split {split.name}: no clip of the task's words; check data.task and data.shards")
        batch = recipe.slots * recipe.micro_batch
        wanted = recipe.epoch_clips or int(cells.sum())
        self.steps = -(-wanted // batch)
        self.clips = wanted if recipe.mode == "natural" else self.steps * batch
        self._cells = cells
        self._draws, self._extras = self._count(cells)  # (shards, classes) each
        self._order = counter_rng.permutation(len(cells), *self._key("shards"))
        self._ends = np.cumsum(self._draws.sum(axis=1)[self._order])
        self._lane_ends = np.cumsum([self._lane_length(slot) for slot in range(recipe.slots)])
        # Lanes are walked in order, so a shard or a window is asked for many times in a row.
        self._shard_draws = functools.lru_cache(maxsize=recipe.slots + 1)(self._draw_shard)
        self._window = functools.lru_cache(maxsize=recipe.slots)(self._shuffle_window)

    @property
    def digest(self) -> str:
        """Of all that numpy's generators drew for the epoch: another version of numpy may draw otherwise."""
        drawn = (self._draws, self._extras, self._order, self.slot(0, 0).clips)
        return f"{zlib.crc32(b''.join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in drawn)):08x}"

    def slot(self, step: int, slot: int) -> Slot:
        """What one slot reads; at most micro_batch clips, fewer (or none) only in the last step of `natural`."""
        recipe = self._recipe
        low = step * recipe.micro_batch
        high = min(low + recipe.micro_batch, self._lane_length(slot))
        width = self._window_width()
        clips = self._window(slot, low // width)[low % width : low % width + max(0, high - low)]
        first = (step * recipe.slots + slot) * recipe.micro_batch
        return Slot(step, slot, np.arange(first, first + len(clips)), clips)

    def rank_slots(self, rank: int, world_size: int, start_step: int = 0) -> Iterator[Slot]:
        """The slots of one rank from `start_step` on, step by step, in order."""
        mine = slots_of(rank, world_size, self._recipe.slots)
        for step in range(start_step, self.steps):
            for slot in mine:
                yield self.slot(step, slot)

    def step_slots(self, step: int) -> list[Slot]:
        """All slots of one step."""
        return [self.slot(step, slot) for slot in range(self._recipe.slots)]

    def step_clips(self, step: int) -> int:
        """Clips of one step over all slots."""
        recipe = self._recipe
        return min(recipe.slots * recipe.micro_batch, self.clips - step * recipe.slots * recipe.micro_batch)

    def shards_ahead(self, rank: int, world_size: int, start_step: int = 0) -> Iterator[Stretch]:
        """The shards that a rank reads, window after window, from the one on that `start_step` lies in.

        Inside a window the draws are shuffled, so all its shards are needed from its first steps on.
        """
        mine = slots_of(rank, world_size, self._recipe.slots)
        steps = self._window_width() // self._recipe.micro_batch
        for window in range(start_step // steps, -(-self.steps // steps)):
            shards = (number for slot in mine for number in self._window_shards(slot, window))
            yield Stretch(window * steps, min((window + 1) * steps, self.steps), tuple(dict.fromkeys(shards)))

    def bytes_at_once(self, ranks: Iterable[int], world_size: int) -> int:
        """The most bytes of shards that these ranks need at any one time: their lanes' windows and the next ones."""
        sizes = [shard.bytes for shard in self._split.shards]
        total = sum(self._most_at_once(rank, world_size, sizes) for rank in ranks)
        return min(total, sum(sizes))

    def _most_at_once(self, rank: int, world_size: int, sizes: Sequence[int]) -> int:
        sets = [set(stretch.shards) for stretch in self.shards_ahead(rank, world_size)]
        pairs = itertools.zip_longest(sets, sets[1:], fillvalue=set[int]())
        return max(sum(sizes[number] for number in now | after) for now, after in pairs)

    def _window_shards(self, slot: int, window: int) -> list[int]:
        """The shards in which the draws of one window of a lane lie."""
        width, lane = self._window_width(), self._lane_length(slot)
        start = int(self._lane_ends[slot]) - lane
        low, high = start + window * width, start + min((window + 1) * width, lane)
        if low >= high:
            return []
        first = int(np.searchsorted(self._ends, low, side="right"))
        last = int(np.searchsorted(self._ends, high, side="left"))
        ends = self._ends[max(0, first - 1) : last + 1]
        drawn = np.diff(ends) if first else np.diff(ends, prepend=0)  # not those without draws in between
        return [int(number) for number in self._order[first : last + 1][drawn > 0]]

    def _key(self, *name: counter_rng.Key) -> tuple[counter_rng.Key, ...]:
        return ("plan", self._recipe.seed, self._epoch, *name)

    def _window_width(self) -> int:
        micro = self._recipe.micro_batch
        return max(1, self._recipe.window // micro) * micro

    def _lane_length(self, slot: int) -> int:
        """Full steps, and an even share of the last one: in `natural` slots differ by at most one clip."""
        recipe = self._recipe
        full, rest = divmod(self.clips, recipe.slots * recipe.micro_batch)
        return full * recipe.micro_batch + rest // recipe.slots + (slot < rest % recipe.slots)

    def _count(self, cells: Ids) -> tuple[Ids, Ids]:
        """Draws of each cell, and how many of a cell's clips are drawn once more than its others.

        With replacement the second is not used: -1 everywhere.
        """
        rng = counter_rng.generator(*self._key("counts"))
        sizes = cells.sum(axis=0)  # clips a class
        if self._recipe.mode in ("weighted", "power"):
            return _with_replacement(rng, cells, self.clips, self._alpha()), np.full_like(cells, -1)
        if self._recipe.mode == "natural":
            cells, sizes = cells.sum(axis=1, keepdims=True), sizes.sum(keepdims=True)
        totals = _even_shares(rng, self.clips, sizes)
        draws, extras = np.zeros_like(cells), np.zeros_like(cells)
        for kind in np.flatnonzero(sizes):
            base, rest = divmod(int(totals[kind]), int(sizes[kind]))
            extras[:, kind] = _hypergeometric(rng, cells[:, kind], rest)
            draws[:, kind] = base * cells[:, kind] + extras[:, kind]
        return draws, extras

    def _alpha(self) -> float:
        return 1.0 if self._recipe.mode == "weighted" else self._recipe.alpha

    def _draw_shard(self, number: int) -> Ids:
        """A shard's draws in their random order: clip ids, (draws of the shard,)."""
        rows = self._split.rows(number)
        kinds = self._class_of[self._split.values("word", rows).astype(np.int64)]
        groups = [rows[kinds == kind] for kind in range(self._cells.shape[1])]
        if self._recipe.mode == "natural":
            groups = [rows[kinds >= 0]]
        drawn = [self._draw_cell(number, kind, group) for kind, group in enumerate(groups)]
        clips = np.concatenate(drawn) if drawn else np.zeros(0, np.int64)
        return clips[counter_rng.permutation(len(clips), *self._key("order", number))]

    def _draw_cell(self, number: int, kind: int, rows: Ids) -> Ids:
        """The draws of one class in one shard: evenly over its clips, or with replacement."""
        draws, extra = int(self._draws[number, kind]), int(self._extras[number, kind])
        if draws == 0:
            return rows[:0]
        if extra < 0:
            picks = counter_rng.uniforms(np.arange(draws), 1, *self._key("with", number, kind))[:, 0]
            return rows[(picks * len(rows)).astype(np.int64)]
        lucky = rows[counter_rng.permutation(len(rows), *self._key("extra", number, kind))[:extra]]
        return np.concatenate([np.repeat(rows, (draws - extra) // len(rows)), lucky])

    def _shuffle_window(self, slot: int, window: int) -> Ids:
        """The draws of one window of a lane in their final order, (window,)."""
        width, lane_start = self._window_width(), int(self._lane_ends[slot]) - self._lane_length(slot)
        low, high = window * width, min((window + 1) * width, self._lane_length(slot))
        draws = self._between(lane_start + low, lane_start + high)
        return _spread(draws, self._recipe.micro_batch, *self._key("window", slot, window))

    def _between(self, low: int, high: int) -> Ids:
        """Draws low..high-1 of the shards laid end to end."""
        parts = [np.zeros(0, np.int64)]
        at = int(np.searchsorted(self._ends, low, side="right"))
        while low < high:
            number = int(self._order[at])
            draws = self._shard_draws(number)
            start = int(self._ends[at]) - len(draws)
            parts.append(draws[low - start : high - start])
            low, at = min(high, int(self._ends[at])), at + 1
        return np.concatenate(parts)


def slots_of(rank: int, world_size: int, slots: int) -> range:
    """The slots that a rank runs. Raises UsageError where the ranks do not divide the slots."""
    if slots % world_size:
        fitting = [str(n) for n in range(1, slots + 1) if slots % n == 0]
        raise UsageError(
            f"{slots} slots (global_batch / micro_batch) run on {', '.join(fitting)} processes, not {world_size}; "
            f"start one of those, or use another --set train.micro_batch=..."
        )
    share = slots // world_size
    return range(rank * share, (rank + 1) * share)


def _class_cells(cells: npt.NDArray[np.uint32], class_of: Ids) -> Ids:
    """(shards, words) -> (shards, classes)."""
    member = class_of[:, None] == np.arange(max(class_of.max(initial=-1) + 1, 1))
    counts: Ids = np.asarray(cells, dtype=np.int64) @ member.astype(np.int64)
    return counts


def _even_shares(rng: np.random.Generator, total: int, sizes: Ids) -> Ids:
    """`total` dealt to the classes that have clips: equal but for 1, who gets the extra one uniform."""
    present = np.flatnonzero(sizes)
    shares = np.zeros_like(sizes)
    shares[present] = total // len(present)
    shares[rng.permutation(present)[: total % len(present)]] += 1
    return shares


def _hypergeometric(rng: np.random.Generator, cells: Ids, chosen: int) -> Ids:
    """How many of `chosen` clips, picked without replacement, lie in each shard."""
    counts: Ids = rng.multivariate_hypergeometric(cells, chosen, method="marginals")
    return counts


def _with_replacement(rng: np.random.Generator, cells: Ids, total: int, alpha: float) -> Ids:
    """Draws of each cell where a clip of a class with n clips weighs n^-alpha."""
    sizes = cells.sum(axis=0).astype(np.float64)
    mass = np.where(sizes > 0, np.maximum(sizes, 1.0) ** (1.0 - alpha), 0.0)
    draws = np.zeros_like(cells)
    for kind, count in enumerate(rng.multinomial(total, mass / mass.sum())):
        if count:
            draws[:, kind] = rng.multinomial(count, cells[:, kind] / sizes[kind])
    return draws


def _spread(draws: Ids, micro_batch: int, *key: counter_rng.Key) -> Ids:
    """A window in random order in which the repeats of a clip fall into different slots where they can.

    Clips in random order, each with its repeats beside it, are dealt to the slots like cards. Where no clip repeats
    that is a uniform shuffle, since dealing out a shuffled deck is as good as cutting it.
    """
    kinds, which = np.unique(draws, return_inverse=True)
    deck = draws[np.argsort(counter_rng.permutation(len(kinds), *key, "deck")[which], kind="stable")]
    room = np.full(-(-len(deck) // micro_batch), micro_batch)
    room[-1:] -= len(room) * micro_batch - len(deck)  # the last slot of `natural` may be short
    turns = np.nonzero(room > np.arange(micro_batch)[:, None])[1]  # card -> slot, round after round
    full = np.arange(np.count_nonzero(room == micro_batch))
    places = np.concatenate([counter_rng.permutation(len(full), *key, "slots"), np.arange(len(full), len(room))])
    return deck[np.lexsort((counter_rng.bits(np.arange(len(deck)), 1, *key, "mix")[:, 0], places[turns]))]
