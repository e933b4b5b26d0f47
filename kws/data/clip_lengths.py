"""How long the recordings of a corpus are: the clip length that `data.clip_seconds = "auto"` takes, and the notes where
recordings are longer or shorter than the clips of a run.

    column `samples` of train -> auto_seconds
    columns `samples` of train, valid, test + Excerpt -> ClipLengths -> lines for the user
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kws.audio.codec import SAMPLE_RATE_HZ, clip_samples
from kws.config import DataConfig, ExcerptRule
from kws.corpus.tasks import SPLITS
from kws.data.excerpt import TOLERANCE, Excerpt
from kws.data.index import Index

SHORTEST_AUTO_S, LONGEST_AUTO_S = 1.0, 5.0
"""The range of `auto`: the corpora of this field have clips of a second, and computation grows with the length."""
_STEP = SAMPLE_RATE_HZ // 10
_FEW_OF_ALL, _FEW_OF_WORD = 100, 10
"""At most one in so many train clips, and one in so many of any word, may be longer than the length that auto takes."""


def auto_seconds(index: Index) -> float:
    """The clip length that `auto` takes, in seconds: the smallest multiple of 0.1 s with which 99 % of all train clips
    and 90 % of those of each word are not longer, but 1 to 5 s."""
    counts = _counts_by_length(index)
    totals = counts.sum(axis=1)
    longer = totals[:, None] - np.cumsum(counts, axis=1)  # clips of each word longer than so many steps
    enough = (longer.sum(axis=0) * _FEW_OF_ALL <= totals.sum()) & (longer * _FEW_OF_WORD <= totals[:, None]).all(axis=0)
    steps = int(np.argmax(enough))  # the last column holds all clips that are longer still, so it is always enough
    return min(max(steps * _STEP / SAMPLE_RATE_HZ, SHORTEST_AUTO_S), LONGEST_AUTO_S)


def _counts_by_length(index: Index) -> npt.NDArray[np.int64]:
    """Number of train clips of each word by length, in steps of 0.1 s rounded up: (words, steps)."""
    steps = round(LONGEST_AUTO_S * SAMPLE_RATE_HZ / _STEP) + 1
    found = np.zeros(len(index.words) * steps, np.int64)
    for samples, words in index.splits["train"].chunks("samples", "word") if "train" in index.splits else ():
        length = np.minimum((samples.astype(np.int64) - TOLERANCE + _STEP - 1) // _STEP, steps - 1)
        found += np.bincount(words.astype(np.int64) * steps + np.maximum(length, 0), minlength=len(found))
    return found.reshape(-1, steps)


def resolve(data: DataConfig, index: Index) -> DataConfig:
    """The settings with a number for data.clip_seconds = "auto"."""
    return data if data.clip_seconds != "auto" else dataclasses.replace(data, clip_seconds=auto_seconds(index))


def auto_excerpt(index: Index, rule: ExcerptRule = "loudest") -> Excerpt:
    """The excerpt that a run with the default settings uses."""
    return Excerpt(clip_samples(auto_seconds(index)), rule)


@dataclasses.dataclass(frozen=True)
class ClipLengths:
    """The recordings of train, valid and test, compared with the clips that `excerpt` takes of them."""

    excerpt: Excerpt
    auto_s: float
    """What `auto` would take."""
    clips: int
    longer: int
    shorter: int
    half_empty: int
    """Shorter than half of a clip."""
    longest_s: float

    @classmethod
    def of(cls, index: Index, excerpt: Excerpt) -> ClipLengths:
        """Reads the lengths of all recordings."""
        clips = longer = shorter = half_empty = longest = 0
        for split in (index.splits[name] for name in SPLITS if name in index.splits):
            for (samples,) in split.chunks("samples"):
                clips, longest = clips + len(samples), max(longest, int(samples.max(initial=0)))
                longer += int(np.count_nonzero(samples > excerpt.samples + TOLERANCE))
                shorter += int(np.count_nonzero(samples < excerpt.samples - TOLERANCE))
                half_empty += int(np.count_nonzero(samples < excerpt.samples // 2))
        return cls(excerpt, auto_seconds(index), clips, longer, shorter, half_empty, longest / SAMPLE_RATE_HZ)

    def facts(self) -> dict[str, float]:
        """Numbers of recordings and seconds, for programs."""
        facts = dataclasses.asdict(self)
        return {"clip_seconds": self.seconds, **{name: facts[name] for name in facts if name != "excerpt"}}

    @property
    def seconds(self) -> float:
        """Length of a clip."""
        return self.excerpt.samples / SAMPLE_RATE_HZ

    def line(self) -> str:
        """The clip length, how many recordings are shorter or longer, and what happens with them."""
        parts = [
            f"{_share(self.shorter, self.clips)} shorter (zeros at their end)" if self.shorter else "none shorter",
            f"{_share(self.longer, self.clips)} longer ({self.excerpt.part} of each; longest {self.longest_s:.3g} s)"
            if self.longer
            else "none longer",
        ]
        return f"clips of {self.seconds:g} s{self._from_auto()}: of {self.clips:,} recordings {', '.join(parts)}"

    def notes(self, anywhere: bool = False) -> list[str]:
        """Lines that are always shown: none where the recordings fit in clips of a second. anywhere:
        frontend.place = "anywhere", for which clips are meant to be longer than recordings."""
        lines = []
        if self.longer:
            lines.append(
                f"{_share(self.longer, self.clips)} of {self.clips:,} recordings are longer than data.clip_seconds = "
                f"{self.seconds:g} (longest {self.longest_s:.3g} s): {self.excerpt.part} of each is used"
                + self._how_to_use_more()
            )
        if 2 * self.half_empty > self.clips and not anywhere:
            better = f"; data.clip_seconds=auto would take {self.auto_s:g}" if self.auto_s < self.seconds else ""
            lines.append(
                f"{_share(self.half_empty, self.clips)} of {self.clips:,} recordings are shorter than half of "
                f"data.clip_seconds = {self.seconds:g}: zeros are added at their end{better}"
            )
        return lines or ([self.line()] if self.seconds != SHORTEST_AUTO_S else [])

    def lines(self) -> list[str]:
        """`line`, and the notes if there is more: recordings could be used whole, or clips are half empty."""
        says_more = self._how_to_use_more() or 2 * self.half_empty > self.clips
        return list(dict.fromkeys([self.line(), *(self.notes() if says_more else [])]))

    def _from_auto(self) -> str:
        return " (data.clip_seconds = auto)" if self.auto_s == self.seconds else ""

    def _how_to_use_more(self) -> str:
        if self.auto_s > self.seconds:
            return f"; --set data.clip_seconds=auto would take {self.auto_s:g}"
        if self.auto_s == self.seconds == LONGEST_AUTO_S:
            return f", the most that auto takes; --set data.clip_seconds={self.longest_s:.3g} would use all"
        return ""


def _share(count: int, total: int) -> str:
    """31 of 100 -> "31 %"; one decimal below 10 %, and above 99 %, so that 100 % means all."""
    percent = 100.0 * count / max(1, total)
    if count < total and percent > 99.0:
        return "over 99.9 %" if percent > 99.9 else f"{percent:.1f} %"
    return "under 0.1 %" if percent < 0.1 else f"{percent:.1f} %" if percent < 10.0 else f"{percent:.0f} %"
