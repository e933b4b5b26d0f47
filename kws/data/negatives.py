"""Negatives: long recordings without the words, and the windows of a clip's length that are drawn from them.

    recordings of a split, end to end -> windows, one every 10 ms -> ids after all other clips of the split
    training: the plan draws windows (WindowDraws), other ones in every epoch      evaluation: evenly spread ones

A window has no entry in the index: its recording and its start follow from its id. It belongs to the class unknown. How
recordings are divided into splits and cut into pieces: kws/corpus/negatives.py; here each piece is a recording.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.audio.codec import SAMPLE_RATE_HZ, WAV_HEADER_BYTES
from kws.data.index import COLUMNS, Column, Shard, Split
from kws.errors import UsageError

HOP = SAMPLE_RATE_HZ // 100
"""Samples from the start of a window to the start of the next."""
Ids = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class NegativeWindows:
    """The windows of `samples` samples in the negatives of a split (`packed`). Their ids are first_row, first_row + 1,
    ..., in the order of the recordings.

    first_shard: number of their first shard among all shards of the task's split. word: number of the word unknown.
    num_evaluated: how many windows an evaluation uses. A recording that is shorter than a window has one window, which
    ends with the recording.
    """

    packed: Split
    first_row: int
    first_shard: int
    word: int
    samples: int
    num_evaluated: int = 0

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @functools.cached_property
    def ends(self) -> Ids:
        """Number of windows up to the end of each recording, (recordings,)."""
        return np.cumsum(num_windows(self._lengths, self.samples))

    @functools.cached_property
    def shard_sizes(self) -> Ids:
        """Number of windows of each shard, (shards,)."""
        ends = np.concatenate([[0], self.ends])
        last = np.array([shard.start + shard.clips for shard in self.packed.shards], np.int64)
        first = np.array([shard.start for shard in self.packed.shards], np.int64)
        sizes: Ids = ends[last] - ends[first]
        return sizes

    @property
    def seconds(self) -> float:
        """Length of all recordings."""
        return seconds(self.packed)

    @functools.cached_property
    def _lengths(self) -> Ids:
        lengths: Ids = self.packed.columns["samples"].astype(np.int64)
        return lengths

    def shards(self) -> tuple[Shard, ...]:
        """The negatives' shards for the list of the split's shards, with 0 clips: no row of the index is in them."""
        return tuple(dataclasses.replace(shard, clips=0, start=self.first_row) for shard in self.packed.shards)

    def locate(self, rows: Ids) -> tuple[Ids, Ids]:
        """Returns the recording of each window and its first sample in it, (B,) each."""
        places = rows - self.first_row
        recordings = np.searchsorted(self.ends, places, side="right")
        before = np.concatenate([[0], self.ends])[recordings]
        return recordings, (places - before) * HOP

    def values(self, column: str, rows: Ids) -> Column:
        """Returns the values of an index column for rows that are all windows, as Split.values does. A window is read
        like a WAV file that begins a header's length before its first sample."""
        recordings, starts = self.locate(rows)
        kept = np.minimum(self.samples, self._lengths[recordings] - starts)
        if column == "shard":
            return np.asarray(self.first_shard + self.packed.columns["shard"][recordings], COLUMNS[column])
        if column == "offset":
            return np.asarray(self.packed.columns["offset"][recordings].astype(np.int64) + 2 * starts, COLUMNS[column])
        made = {"length": WAV_HEADER_BYTES + 2 * kept, "samples": kept}
        made |= {"plain": np.ones_like(kept), "word": np.full_like(kept, self.word)}
        if column in made:
            return np.asarray(made[column], COLUMNS[column])
        if column in ("speaker", "name"):
            return np.asarray(self.packed.columns[column][recordings])
        return np.zeros(len(rows), COLUMNS[column])

    def evaluated(self) -> Ids:
        """Returns the windows that an evaluation uses, evenly spread, (num_evaluated,)."""
        places = (2 * np.arange(self.num_evaluated) + 1) * len(self) // (2 * max(1, self.num_evaluated))
        return self.first_row + places

    def bytes_needed(self, number: int) -> int:
        """Returns how many bytes the shard of that number must have at least: up to the end of its last recording."""
        if number < self.first_shard:
            return 0
        shard = self.packed.shards[number - self.first_shard]
        rows = slice(shard.start, shard.start + shard.clips)
        start, size = (self.packed.columns[name][rows].astype(np.int64) for name in ("offset", "length"))
        return int((start + size).max(initial=0))


def num_windows(lengths: Ids, samples: int) -> Ids:
    """Returns the number of windows of recordings of these lengths, in samples, (recordings,) each."""
    return np.maximum(0, lengths - samples) // HOP + 1


def seconds(packed: Split) -> float:
    """Returns the length of all recordings of a split's negatives."""
    return float(packed.columns["samples"].sum(dtype=np.int64)) / SAMPLE_RATE_HZ


def most_evaluated(packed: Split, samples: int) -> int:
    """Returns how many windows fit into the recordings of a split without overlap."""
    return int(np.maximum(1, packed.columns["samples"].astype(np.int64) // samples).sum())


def check_plain(packed: Split, where: str) -> None:
    """Raises UsageError where negatives are not plain WAV: windows are read from the middle of a recording."""
    if not np.asarray(packed.columns["plain"]).all():
        raise UsageError(
            f"{where}: the recordings of {packed.name} are not 16 kHz mono PCM16 with a 44-byte header; pack them with "
            "kws pack SRC... DIR --negatives FOLDER"
        )


class WindowDraws:
    """The `count` windows that an epoch draws. The windows of all shards, in an order that is random in each epoch, are
    cut into `count` equal parts; draw k is a random window of part k. So every second of the recordings is drawn
    equally often, up to one draw, and few shards are open at a time. order: numbers of the shards, (shards,). key: on
    which the draws depend."""

    def __init__(self, windows: NegativeWindows, count: int, *key: counter_rng.Key) -> None:
        self._windows, self._key = windows, key
        sizes = windows.shard_sizes
        self.order = counter_rng.permutation(len(sizes), *key, "shards")
        self._ends = np.cumsum(sizes[self.order])
        self._shift = windows.first_row + (np.cumsum(sizes) - sizes)[self.order] - (self._ends - sizes[self.order])
        self._part = len(windows) / max(1, count)  # windows of each part

    def draw(self, low: int, high: int) -> Ids:
        """Returns the draws low .. high-1: ids of windows, (high - low,)."""
        draws = np.arange(low, high)
        inside = counter_rng.uniforms(draws, 1, *self._key, "window")[:, 0]
        places = np.minimum(((draws + inside) * self._part).astype(np.int64), len(self._windows) - 1)
        ids: Ids = self._shift[self._shard_at(places)] + places
        return ids

    def shards(self, low: int, high: int) -> list[int]:
        """Returns the numbers, among all shards of the split, of those that the draws low .. high-1 may be from."""
        if low >= high:
            return []
        edges = np.minimum((np.array([low, high]) * self._part).astype(np.int64), len(self._windows) - 1)
        first, last = self._shard_at(edges).tolist()
        return [self._windows.first_shard + int(number) for number in self.order[first : last + 1]]

    def _shard_at(self, places: Ids) -> Ids:
        found: Ids = np.searchsorted(self._ends, places, side="right")
        return found
