"""The sampling plan: which clips each slot of each step reads. A pure function of the index, the task and the seed.

    draws per (class, shard) cell -> draws of each shard, shuffled -> shards in random order, end to end
        -> M lanes of equal length -> each lane shuffled inside windows -> slots
    with data.negatives: a share of windows of the negatives beside the draws of each shard

Every rank computes the same plan and reads its own slots of it. Ranks exchange nothing, and the plan depends neither on
the number of ranks nor on the number of threads that read ahead. Only the counts of the cells are drawn for the whole
epoch; the clips of a shard are drawn when a slot reaches it, so time and memory grow with a rank's share of the epoch
and not with the corpus. docs/architecture.md follows one clip through it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.config import Config
from kws.data.index import Split
from kws.data.negatives import WindowDraws
from kws.data.selection import TaskSplit
from kws.errors import UsageError

Mode = Literal["natural", "balanced", "weighted", "power"]
Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """The settings that a plan depends on: data.sampling, slots per step, clips per slot, train.seed, data.epoch_clips
    (0: as many as the split has), data.window (draws per shuffle window), data.alpha (for `power`) and
    data.negatives."""

    mode: Mode
    slots: int
    micro_batch: int
    seed: int
    epoch_clips: int = 0
    window: int = 4096
    alpha: float = 0.5
    negatives: float = 0.0

    @classmethod
    def from_config(cls, config: Config) -> PlanSettings:
        """Takes the settings out of a run's config."""
        data, train = config.data, config.train
        numbers = (train.slots, train.micro_batch, train.seed, data.epoch_clips, data.window, data.alpha)
        return cls(data.sampling, *numbers, negatives=data.negatives)


@dataclasses.dataclass(frozen=True)
class Slot:
    """What slot `slot` of step `step` reads: draw numbers and clip ids, (micro_batch,) each.

    Steps and draws are counted from the start of the epoch.
    """

    step: int
    slot: int
    draws: Ids
    clips: Ids


@dataclasses.dataclass(frozen=True)
class NeededShards:
    """The shards, by their numbers in the split, that are read in steps first_step .. end_step - 1."""

    first_step: int
    end_step: int
    shards: tuple[int, ...]


class Plan:
    """The plan of one epoch.

    class_of: the class of each word of the index, -1 for words outside the task. `steps` is the number of steps of the
    epoch, `clips` the number of its draws, `num_windows` how many of them are windows of negatives. Raises UsageError
    where the split has no clip of the task.
    """

    def __init__(self, split: Split, class_of: Sequence[int], settings: PlanSettings, epoch: int) -> None:
        self._split, self._settings, self._epoch = split, settings, epoch
        self._class_of = np.asarray(class_of, dtype=np.int64)
        cells = _class_cells(split.cells, self._class_of)  # (shards, classes)
        if cells.sum() == 0:
            raise UsageError(f"split {split.name}: no clip of the task's words; check data.task and data.shards")
        batch = settings.slots * settings.micro_batch
        windows = split.negatives if isinstance(split, TaskSplit) else None
        share = Fraction(str(settings.negatives)) if windows else Fraction(0)
        wanted = settings.epoch_clips or round(int(cells.sum()) / (1 - share))
        self.steps = -(-wanted // batch)
        self.clips = wanted if settings.mode == "natural" else self.steps * batch
        self.num_windows = round(self.clips * share)
        self._cells = cells
        self._draws, self._extras = self._count(cells)  # (shards, classes) each
        self._order = counter_rng.permutation(len(cells), *self._key("shards"))
        self._ends = np.cumsum(self._draws.sum(axis=1)[self._order])
        self._negatives = WindowDraws(windows, self.num_windows, *self._key("negatives")) if windows else None
        # Number of windows drawn with the first 1, 2, ... shards: in proportion to the draws of those shards.
        self._negative_ends = self._ends * self.num_windows // max(1, self._ends[-1])
        self._ends = self._ends + self._negative_ends
        self._lane_ends = np.cumsum([self._lane_length(slot) for slot in range(settings.slots)])
        # The steps go through the lanes in order, so the same shards and windows are used many times in a row.
        self._shard_draws = functools.lru_cache(maxsize=settings.slots + 1)(self._draw_shard)
        self._window = functools.lru_cache(maxsize=settings.slots)(self._shuffle_window)

    @property
    def digest(self) -> str:
        """Checksum of everything that numpy's generators drew for the epoch, 8 hex digits.

        Saved in checkpoints, because another version of numpy may draw other numbers.
        """
        drawn = [self._draws, self._extras, self._order, self.slot(0, 0).clips]
        drawn += [self._negatives.order] if self._negatives else []
        return f"{zlib.crc32(b''.join(np.ascontiguousarray(part, dtype=np.int64).tobytes() for part in drawn)):08x}"

    def slot(self, step: int, slot: int) -> Slot:
        """Returns what one slot reads: micro_batch clips, or fewer (even none) in the last step of `natural`."""
        settings = self._settings
        low = step * settings.micro_batch
        high = min(low + settings.micro_batch, self._lane_length(slot))
        width = self._window_width()
        clips = self._window(slot, low // width)[low % width : low % width + max(0, high - low)]
        first = (step * settings.slots + slot) * settings.micro_batch
        return Slot(step, slot, np.arange(first, first + len(clips)), clips)

    def rank_slots(self, rank: int, world_size: int, start_step: int = 0) -> Iterator[Slot]:
        """Yields the slots of one rank from `start_step` on, step by step, in order."""
        mine = slots_of_rank(rank, world_size, self._settings.slots)
        for step in range(start_step, self.steps):
            for slot in mine:
                yield self.slot(step, slot)

    def step_slots(self, step: int) -> list[Slot]:
        """Returns all slots of one step."""
        return [self.slot(step, slot) for slot in range(self._settings.slots)]

    def step_clips(self, step: int) -> int:
        """Returns the number of clips of one step over all its slots."""
        settings = self._settings
        return min(settings.slots * settings.micro_batch, self.clips - step * settings.slots * settings.micro_batch)

    def needed_shards(self, rank: int, world_size: int, start_step: int = 0) -> Iterator[NeededShards]:
        """Yields the shards that a rank reads, window after window, beginning with the window of `start_step`.

        The draws of a window are shuffled, so all its shards are needed from its first step on.
        """
        mine = slots_of_rank(rank, world_size, self._settings.slots)
        steps = self._window_width() // self._settings.micro_batch
        for window in range(start_step // steps, -(-self.steps // steps)):
            shards = (number for slot in mine for number in self._window_shards(slot, window))
            yield NeededShards(window * steps, min((window + 1) * steps, self.steps), tuple(dict.fromkeys(shards)))

    def bytes_at_once(self, ranks: Iterable[int], world_size: int) -> int:
        """Returns the most bytes of shards that these ranks need at any one time.

        A rank needs the shards of the current and of the next window of each of its lanes.
        """
        sizes = [shard.bytes for shard in self._split.shards]
        total = sum(self._most_at_once(rank, world_size, sizes) for rank in ranks)
        return min(total, sum(sizes))

    def _most_at_once(self, rank: int, world_size: int, sizes: Sequence[int]) -> int:
        windows = [set(needed.shards) for needed in self.needed_shards(rank, world_size)]
        pairs = itertools.zip_longest(windows, windows[1:], fillvalue=set[int]())
        return max(sum(sizes[number] for number in current | following) for current, following in pairs)

    def _window_shards(self, slot: int, window: int) -> list[int]:
        """Returns the numbers of the shards that hold the draws of one window of a lane."""
        width, lane = self._window_width(), self._lane_length(slot)
        start = int(self._lane_ends[slot]) - lane
        low, high = start + window * width, start + min((window + 1) * width, lane)
        if low >= high:
            return []
        first = int(np.searchsorted(self._ends, low, side="right"))
        last = int(np.searchsorted(self._ends, high, side="left"))
        ends = self._ends[max(0, first - 1) : last + 1]
        drawn = np.diff(ends) if first else np.diff(ends, prepend=0)  # 0: a shard without draws
        shards = [int(number) for number in self._order[first : last + 1][drawn > 0]]
        return shards + (self._negatives.shards(*self._negatives_with(first, last)) if self._negatives else [])

    def _negatives_with(self, first: int, last: int) -> tuple[int, int]:
        """Returns the range of the window draws that belong to the shards at places first .. last of the order."""
        return int(self._negative_ends[first - 1]) if first else 0, int(self._negative_ends[last])

    def _key(self, *name: counter_rng.Key) -> tuple[counter_rng.Key, ...]:
        return ("plan", self._settings.seed, self._epoch, *name)

    def _window_width(self) -> int:
        """Draws per window of a lane: a multiple of the micro-batch, so that no slot crosses a window's end."""
        micro = self._settings.micro_batch
        return max(1, self._settings.window // micro) * micro

    def _lane_length(self, slot: int) -> int:
        """Returns the draws of a lane: those of all full steps and an even share of the last step's.

        In the last step of `natural` the slots differ by at most one clip.
        """
        settings = self._settings
        full, rest = divmod(self.clips, settings.slots * settings.micro_batch)
        return full * settings.micro_batch + rest // settings.slots + (slot < rest % settings.slots)

    def _count(self, cells: Ids) -> tuple[Ids, Ids]:
        """Returns (draws, extras), (shards, classes) each.

        draws: number of draws of each cell. extras: how many of the cell's clips are drawn once more than its others;
        -1 in all cells where clips are drawn with replacement.
        """
        rng, total = counter_rng.generator(*self._key("counts")), self.clips - self.num_windows
        sizes = cells.sum(axis=0)  # clips of each class
        if self._settings.mode in ("weighted", "power"):
            return _with_replacement(rng, cells, total, self._alpha()), np.full_like(cells, -1)
        if self._settings.mode == "natural":
            cells, sizes = cells.sum(axis=1, keepdims=True), sizes.sum(keepdims=True)
        totals = _even_shares(rng, total, sizes)
        draws, extras = np.zeros_like(cells), np.zeros_like(cells)
        for label in np.flatnonzero(sizes):
            base, rest = divmod(int(totals[label]), int(sizes[label]))
            extras[:, label] = _hypergeometric(rng, cells[:, label], rest)
            draws[:, label] = base * cells[:, label] + extras[:, label]
        return draws, extras

    def _alpha(self) -> float:
        return 1.0 if self._settings.mode == "weighted" else self._settings.alpha

    def _draw_shard(self, number: int) -> Ids:
        """Returns the draws of a shard, and the windows that are drawn with it, in random order: clip ids, (n,)."""
        rows, num_classes = self._split.rows(number), self._draws.shape[1]
        labels = self._class_of[self._split.values("word", rows).astype(np.int64)]
        if self._settings.mode == "natural":
            labels = np.minimum(labels, 0)
        order = counter_rng.stable_order(labels + 1, num_classes + 1)  # -1: a word outside the task
        rows, labels = rows[order], labels[order]
        edges = np.searchsorted(labels, np.arange(num_classes + 1))
        if self._settings.mode in ("weighted", "power"):
            clips = self._draw_repeatedly(number, rows, edges)
        else:
            clips = self._draw_evenly(number, rows, labels, edges)
        if self._negatives:
            at = int(np.flatnonzero(self._order == number)[0])
            clips = np.concatenate([clips, self._negatives.draw(*self._negatives_with(at, at))])
        return clips[counter_rng.permutation(len(clips), *self._key("order", number))]

    def _draw_repeatedly(self, number: int, rows: Ids, edges: Ids) -> Ids:
        """Returns the draws of a shard, class by class, from the clips of each with replacement. The clips of class c
        are rows[edges[c] : edges[c + 1]]."""
        drawn = [np.zeros(0, np.int64)]
        for label, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
            counters = np.arange(self._draws[number, label])
            picks = counter_rng.uniforms(counters, 1, *self._key("with", number, label))[:, 0]
            drawn.append(rows[low + (picks * (high - low)).astype(np.int64)])
        return np.concatenate(drawn)

    def _draw_evenly(self, number: int, rows: Ids, labels: Ids, edges: Ids) -> Ids:
        """Returns the draws of a shard, class by class: every clip equally often, then some of its clips once more.

        All classes at once: drawn one by one, they took a fifth of the time of reading.
        """
        extras, sizes = self._extras[number], np.diff(edges)
        repeats = ((self._draws[number] - extras) // np.maximum(sizes, 1))[labels[edges[0] :]]
        chosen = np.flatnonzero(extras)
        orders = counter_rng.permutations(sizes[chosen], counter_rng.digests(chosen, *self._key("extra", number)))
        of_order = np.repeat(chosen, sizes[chosen])
        place = np.arange(len(orders)) - np.repeat(np.cumsum(sizes[chosen]) - sizes[chosen], sizes[chosen])
        once_more = (edges[of_order] + orders)[place < extras[of_order]]
        drawn = np.concatenate([np.repeat(np.arange(edges[0], len(rows)), repeats), once_more])
        clips: Ids = rows[drawn[counter_rng.stable_order(labels[drawn], len(sizes))]]
        return clips

    def _shuffle_window(self, slot: int, window: int) -> Ids:
        """Returns the draws of one window of a lane in their final order, (window,)."""
        width, lane_start = self._window_width(), int(self._lane_ends[slot]) - self._lane_length(slot)
        low, high = window * width, min((window + 1) * width, self._lane_length(slot))
        draws = self._between(lane_start + low, lane_start + high)
        return _shuffle_apart(draws, self._settings.micro_batch, *self._key("window", slot, window))

    def _between(self, low: int, high: int) -> Ids:
        """Returns the draws low .. high-1 of all shards end to end."""
        parts = [np.zeros(0, np.int64)]
        at = int(np.searchsorted(self._ends, low, side="right"))
        while low < high:
            number = int(self._order[at])
            draws = self._shard_draws(number)
            start = int(self._ends[at]) - len(draws)
            parts.append(draws[low - start : high - start])
            low, at = min(high, int(self._ends[at])), at + 1
        return np.concatenate(parts)


def slots_of_rank(rank: int, world_size: int, slots: int) -> range:
    """Returns the slots that a rank runs. Raises UsageError where the number of ranks does not divide the slots."""
    if slots % world_size:
        allowed = [str(n) for n in range(1, slots + 1) if slots % n == 0]
        raise UsageError(
            f"{slots} slots (global_batch / micro_batch) run on {', '.join(allowed)} processes, not {world_size}; "
            "start one of those numbers, or use another --set train.micro_batch=..."
        )
    share = slots // world_size
    return range(rank * share, (rank + 1) * share)


def _class_cells(cells: npt.NDArray[np.uint32], class_of: Ids) -> Ids:
    """Adds up the words of each class: (shards, words) -> (shards, classes)."""
    member = class_of[:, None] == np.arange(max(class_of.max(initial=-1) + 1, 1))
    counts: Ids = np.asarray(cells, dtype=np.int64) @ member.astype(np.int64)
    return counts


def _even_shares(rng: np.random.Generator, total: int, sizes: Ids) -> Ids:
    """Divides `total` draws among the classes that have clips: equal up to 1; which classes get one more is random."""
    present = np.flatnonzero(sizes)
    shares = np.zeros_like(sizes)
    shares[present] = total // len(present)
    shares[rng.permutation(present)[: total % len(present)]] += 1
    return shares


def _hypergeometric(rng: np.random.Generator, cells: Ids, chosen: int) -> Ids:
    """Draws how many of `chosen` clips, taken without replacement, are in each shard."""
    counts: Ids = rng.multivariate_hypergeometric(cells, chosen, method="marginals")
    return counts


def _with_replacement(rng: np.random.Generator, cells: Ids, total: int, alpha: float) -> Ids:
    """Draws the counts of the cells with replacement; a clip of a class with n clips has the weight n^-alpha."""
    sizes = cells.sum(axis=0).astype(np.float64)
    mass = np.where(sizes > 0, np.maximum(sizes, 1.0) ** (1.0 - alpha), 0.0)
    draws = np.zeros_like(cells)
    for label, count in enumerate(rng.multinomial(total, mass / mass.sum())):
        if count:
            draws[:, label] = rng.multinomial(count, cells[:, label] / sizes[label])
    return draws


def _shuffle_apart(draws: Ids, micro_batch: int, *key: counter_rng.Key) -> Ids:
    """Shuffles a window so that the repeats of a clip are in different slots where that is possible.

    The clips in random order, each followed by its repeats, are dealt to the slots one by one, like cards to players.
    Where no clip repeats, this is a uniform shuffle: dealing a shuffled deck is as random as cutting it.
    """
    unique, which = np.unique(draws, return_inverse=True)
    deck = draws[counter_rng.stable_order(counter_rng.permutation(len(unique), *key, "deck")[which], len(unique))]
    room = np.full(-(-len(deck) // micro_batch), micro_batch)  # clips of each slot
    room[-1:] -= len(room) * micro_batch - len(deck)  # the last slot of `natural` may be short
    slot_of_card = np.nonzero(room > np.arange(micro_batch)[:, None])[1]  # round after round
    full = np.arange(np.count_nonzero(room == micro_batch))
    places = np.concatenate([counter_rng.permutation(len(full), *key, "slots"), np.arange(len(full), len(room))])
    mixed = counter_rng.permutation(len(deck), *key, "mix")
    return deck[mixed[counter_rng.stable_order(places[slot_of_card[mixed]], len(room))]]
