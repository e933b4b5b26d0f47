"""A class of clips without speech, made from the corpus's noise recordings by index: nothing is packed anew.

    noise recordings, a part of each for every split  ->  windows of a clip's length  ->  rows of one more shard

The shard is none on disk: `kws.data.stream.Reader` reads its rows from the noise itself, as it reads any other clip.
A plan draws them a few with each real shard, as if they had been packed there: a shard's draws lie together in the
epoch, and all of silence would. Training, validation and test hear parts of the recordings that do not touch.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kws import keyed
from kws.audio.codec import WAV_HEADER_BYTES
from kws.data.index import COLUMNS, Index, Shard, Split
from kws.errors import UsageError

NAME = "silence"
PARTS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
"""Which part of every noise recording a split hears, so that no second of noise is in two splits."""


@dataclasses.dataclass(frozen=True)
class WithSilence(Split):
    """A split whose last shard is silence, drawn with the others: with shard s its rows shares[s] to shares[s + 1]."""

    shares: npt.NDArray[np.int64]

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """The shard's own clips and its share of silence."""
        if number == len(self.shards) - 1:
            return np.zeros(0, np.int64)
        made = self.shards[-1].start + np.arange(self.shares[number], self.shares[number + 1])
        return np.concatenate([super().rows(number), made])


def part_of(samples: int, split: str) -> slice:
    """The samples of a noise recording of that length that a split hears."""
    low, high = PARTS[split]
    return slice(int(samples * low), int(samples * high))


def is_silence(shard: Shard) -> bool:
    """Whether this is the shard that is none on disk."""
    return shard.name == NAME and not shard.bytes


def add(index: Index, fraction: float, samples: int) -> Index:
    """The corpus with one more word, `silence`: in every split `fraction` as many clips of `samples` samples as the
    split has of words. Which windows is a matter of the corpus alone.

    Raises UsageError where the corpus has no noise, none long enough, or has such a word itself.
    """
    if fraction == 0.0:
        return index
    if NAME in index.words:
        raise UsageError(f"data.silence: {index.root} has the word {NAME!r} itself; use --set data.silence=0")
    if not len(index.splits.get("noise", ())):
        raise UsageError(f"data.silence: {index.root} has no noise recordings to make silence of; pack some, or use 0")
    splits = {
        name: _with_silence(index, split, fraction, samples) if name in PARTS and len(split) else _with_word(split)
        for name, split in index.splits.items()
    }
    return dataclasses.replace(index, words=(*index.words, NAME), splits=splits)


def _with_silence(index: Index, split: Split, fraction: float, samples: int) -> WithSilence:
    count = max(1, round(fraction * len(split)))
    starts = _windows(index, split.name, samples, count)
    fresh = {
        "shard": len(split.shards), "offset": 2 * starts, "length": WAV_HEADER_BYTES + 2 * samples, "samples": samples,
        "plain": 1, "word": len(index.words), "speaker": 0, "crc32": 0, "name": 0,
        "sound": 0,
    }  # fmt: skip
    columns = {
        name: np.concatenate([column, np.broadcast_to(np.asarray(fresh[name], COLUMNS[name]), count)])
        for name, column in split.columns.items()
    }
    shard = Shard(NAME, 0, count, len(split), "")
    ends = np.cumsum([0] + [other.clips for other in split.shards])
    shares = ends * count // len(split)
    cells = np.pad(_with_word(split).cells, ((0, 1), (0, 0)))
    cells[:-1, -1] = np.diff(shares)
    return WithSilence(split.name, (*split.shards, shard), columns, cells, shares)


def _with_word(split: Split) -> Split:
    return dataclasses.replace(split, cells=np.pad(np.asarray(split.cells), ((0, 0), (0, 1))))


def _windows(index: Index, split: str, samples: int, count: int) -> npt.NDArray[np.int64]:
    """Where windows start in the split's parts of the recordings laid end to end, (count,)."""
    parts = [part_of(int(length), split) for length in index.split("noise").columns["samples"]]
    sizes = np.array([part.stop - part.start for part in parts])
    rooms = np.maximum(0, sizes - samples + 1)
    if rooms.sum() == 0:
        low, high = PARTS[split]
        raise UsageError(
            f"data.silence: {split} hears {low:.0%} to {high:.0%} of each noise recording of {index.root}, and none of "
            f"these parts is as long as a clip ({samples} samples); wanted a recording of {samples / (high - low):.0f}"
        )
    place = (keyed.uniforms(np.arange(count), 1, "silence", split)[:, 0] * rooms.sum()).astype(np.int64)
    ends = np.cumsum(rooms)
    which = np.searchsorted(ends, place, side="right")
    found: npt.NDArray[np.int64] = np.cumsum(sizes)[which] - sizes[which] + place - (ends - rooms)[which]
    return found
