"""Generated clips of the class silence: windows of the noise recordings, or zeros. Nothing is packed for them.

    noise recordings, a part of each for every split -> windows of a clip's length -> rows of one more, virtual shard

The virtual shard has no file: `Reader` of kws/data/reader.py reads its rows from the noise, like any other clip. A plan
draws a share of the silence with each real shard. Drawn as one shard, all silence would come in one part of the epoch.
Train, valid and test use parts of the noise recordings that do not overlap.
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

NOISE_PARTS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
"""The part of every noise recording that a split uses, as fractions of its length."""


@dataclasses.dataclass(frozen=True)
class SilenceClips:
    """The generated silence of a split: clips of `samples` samples with the ids first_row, first_row + 1, ...

    shard_number and word: the numbers of the virtual shard and of the word silence, each after all packed ones. starts:
    first sample of each clip in the split's noise parts, end to end, (count,). shares: clips shares[s] .. shares[s+1]-1
    are drawn together with shard s, (shards + 1,).
    """

    kind: Literal["noise", "zeros"]
    first_row: int
    shard_number: int
    word: int
    samples: int
    starts: npt.NDArray[np.int64]
    shares: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    def virtual_shard(self) -> Shard:
        """Returns the entry of the virtual shard in the list of the split's shards."""
        return Shard(SILENCE, 0, len(self), self.first_row, "")

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """Returns the ids of the silence clips that a plan draws together with shard `number`."""
        return self.first_row + np.arange(self.shares[number], self.shares[number + 1])

    def values(self, column: str, rows: npt.NDArray[np.int64]) -> Column:
        """Returns the values of an index column for rows that are all silence, as Split.values does."""
        if column == "offset":
            return np.asarray(2 * self.starts[rows - self.first_row], COLUMNS[column])
        length = WAV_HEADER_BYTES + 2 * self.samples
        constant = {
            "shard": self.shard_number,
            "length": length,
            "samples": self.samples,
            "plain": 1,
            "word": self.word,
        }
        return np.full(rows.shape, constant.get(column, 0), COLUMNS[column])


def split_part(samples: int, split: str) -> slice:
    """Returns which samples of a noise recording of this length a split uses."""
    low, high = NOISE_PARTS[split]
    return slice(int(samples * low), int(samples * high))


def is_silence(shard: Shard) -> bool:
    """Whether this is the virtual shard of silence."""
    return shard.name == SILENCE and not shard.bytes


def generate_silence(
    index: Index, split: Split, count: int, kind: Literal["noise", "zeros"], samples: int, setting: str
) -> SilenceClips:
    """Returns `count` clips of silence for the split. The windows depend on the noise recordings and the split alone.

    Raises UsageError, which begins with `setting`, where the corpus has no noise recording or none that is long enough.
    """
    starts = np.zeros(count, np.int64)
    if kind == "noise":
        starts = _window_starts(index, split.name, samples, count, setting)
    ends = np.cumsum([0] + [shard.clips for shard in split.shards])
    shares = ends * count // len(split)
    return SilenceClips(kind, len(split), len(split.shards), len(index.words), samples, starts, shares)


def _window_starts(index: Index, split: str, samples: int, count: int, setting: str) -> npt.NDArray[np.int64]:
    """Draws where `count` windows begin in the split's parts of the noise recordings, end to end, (count,)."""
    noise = index.splits.get("noise")
    if noise is None or not len(noise):
        raise UsageError(
            f"{setting}: {index.root} has no noise recordings to make silence from; pack some, or train without silence"
        )
    parts = [split_part(int(length), split) for length in noise.columns["samples"]]
    sizes = np.array([part.stop - part.start for part in parts])
    # In the order of the hashes of their names, which does not depend on the order in the shards.
    order = np.argsort(noise.columns["name"], kind="stable")
    rooms = np.maximum(0, sizes - samples + 1)[order]
    if rooms.sum() == 0:
        low, high = NOISE_PARTS[split]
        raise UsageError(
            f"{setting}: {split} uses {low:.0%} to {high:.0%} of each noise recording of {index.root}, and none of "
            f"these parts is as long as a clip ({samples} samples); wanted a recording of {samples / (high - low):.0f} "
            "samples"
        )
    place = (counter_rng.uniforms(np.arange(count), 1, "silence", split)[:, 0] * rooms.sum()).astype(np.int64)
    ends = np.cumsum(rooms)
    which = np.searchsorted(ends, place, side="right")
    found: npt.NDArray[np.int64] = (np.cumsum(sizes) - sizes)[order[which]] + place - (ends - rooms)[which]
    return found
