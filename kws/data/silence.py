"""Clips without speech: windows of the noise recordings, or zeros, by index: nothing is packed anew.

    noise recordings, a part of each for every split  ->  windows of a clip's length  ->  rows of one more shard

The shard is none on disk: `kws.data.stream.Reader` reads its rows from the noise itself, as it reads any other clip.
A plan draws them a few with each real shard, as if they had been packed there: a shard's draws lie together in the
epoch, and all of silence would. Training, validation and test hear parts of the recordings that do not touch.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.audio.codec import WAV_HEADER_BYTES
from kws.corpus.tasks import SILENCE
from kws.data.index import COLUMNS, Column, Index, Shard, Split
from kws.errors import UsageError

PARTS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
"""Which part of every noise recording a split hears, so that no second of noise is in two splits."""


@dataclasses.dataclass(frozen=True)
class Made:
    """A split's silence: clips of `samples` samples, from row `first` on, in a shard of that number behind all others.

    `starts`: where they begin, in samples, in the split's noise laid end to end, (count,). With shard s belong the
    clips shares[s] to shares[s + 1].
    """

    kind: Literal["noise", "zeros"]
    first: int
    shard: int
    word: int
    samples: int
    starts: npt.NDArray[np.int64]
    shares: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def entry(self) -> Shard:
        """The shard that they seem to lie in."""
        return Shard(SILENCE, 0, len(self), self.first, "")

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """Ids of the clips that a plan draws together with the shard of that number."""
        return self.first + np.arange(self.shares[number], self.shares[number + 1])

    def values(self, column: str, rows: npt.NDArray[np.int64]) -> Column:
        """As Split.values has it, of rows that are all silence."""
        if column == "offset":
            return np.asarray(2 * self.starts[rows - self.first], COLUMNS[column])
        length = WAV_HEADER_BYTES + 2 * self.samples
        same = {"shard": self.shard, "length": length, "samples": self.samples, "plain": 1, "word": self.word}
        return np.full(rows.shape, same.get(column, 0), COLUMNS[column])


def part_of(samples: int, split: str) -> slice:
    """The samples of a noise recording of that length that a split hears."""
    low, high = PARTS[split]
    return slice(int(samples * low), int(samples * high))


def is_silence(shard: Shard) -> bool:
    """Whether this is the shard that is none on disk."""
    return shard.name == SILENCE and not shard.bytes


def make(index: Index, split: Split, count: int, kind: Literal["noise", "zeros"], samples: int, asked: str) -> Made:
    """So many clips of silence for the split, by number of a word behind the corpus's. Which windows of noise is a
    matter of the noise alone.

    Raises UsageError, headed by `asked`, where the corpus has no noise, or none long enough.
    """
    starts = np.zeros(count, np.int64)
    if kind == "noise":
        starts = _windows(index, split.name, samples, count, asked)
    ends = np.cumsum([0] + [shard.clips for shard in split.shards])
    shares = ends * count // len(split)
    return Made(kind, len(split), len(split.shards), len(index.words), samples, starts, shares)


def _windows(index: Index, split: str, samples: int, count: int, asked: str) -> npt.NDArray[np.int64]:
    """Where windows start in the split's parts of the recordings laid end to end, (count,)."""
    noise = index.splits.get("noise")
    if noise is None or not len(noise):
        raise UsageError(f"{asked}: {index.root} has no noise recordings to make silence of; pack some, or do without")
    parts = [part_of(int(length), split) for length in noise.columns["samples"]]
    sizes = np.array([part.stop - part.start for part in parts])
    # In the order of their names' hashes: the recordings may lie in any order in the shards.
    order = np.argsort(noise.columns["name"], kind="stable")
    rooms = np.maximum(0, sizes - samples + 1)[order]
    if rooms.sum() == 0:
        low, high = PARTS[split]
        raise UsageError(
            f"{asked}: {split} hears {low:.0%} to {high:.0%} of each noise recording of {index.root}, and none of "
            f"these parts is as long as a clip ({samples} samples); wanted a recording of {samples / (high - low):.0f}"
        )
    place = (counter_rng.uniforms(np.arange(count), 1, "silence", split)[:, 0] * rooms.sum()).astype(np.int64)
    ends = np.cumsum(rooms)
    which = np.searchsorted(ends, place, side="right")
    found: npt.NDArray[np.int64] = (np.cumsum(sizes) - sizes)[order[which]] + place - (ends - rooms)[which]
    return found
