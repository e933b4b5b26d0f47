"""Finds words, and splits, that can be recognised by how their clips were recorded alone.

    Conditions --each measure, one word against the others--> AUC, difference --> a warning where both are large

A network may then learn the device instead of the word: 99 % in the test split, which was recorded in the same way, and
failure in life. The AUC of a measure is the probability that a clip of the word and a clip of another are ordered
rightly by it: 0.5 is chance, 1.0 is perfect separation.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kws.packing.conditions import MEASURES, Conditions
from kws.packing.source_formats import SourceFormats

LEAST_AUC = 0.85
_FEWEST_CLIPS = 8
"""Fewest clips on either side; with fewer there is no warning."""
_MEASURABLE = 0.5
"""Share of the clips on either side for which the measure must be known."""
_DIFFERENCES = {"level_db": 8.0, "floor_db": 10.0, "bandwidth_hz": 500.0, "clipped": 0.001, "offset": 0.003}
"""By how much the medians must differ: words differ in level and in their pauses by nature, but by less."""
_NAMES = {
    "length_s": "length", "level_db": "level", "floor_db": "noise floor", "bandwidth_hz": "bandwidth",
    "clipped": "clipping", "offset": "DC offset", "source": "source format",
}  # fmt: skip
_ALWAYS, _SELDOM = 0.9, 0.1
"""Words differ in length by nature. Suspicious is one exact length of nearly all clips of a word and of few others, and
lengths beyond this ratio."""
_LENGTH_RATIO = 4.0
Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Leak:
    """A word (or, where it is "", a split) that can be recognised by a condition alone. `here`, `elsewhere`: typical
    values."""

    word: str
    split: str
    condition: str
    auc: float
    here: str
    elsewhere: str

    def __str__(self) -> str:
        name = _NAMES[self.condition]
        values = f"{self.here}, {'other words' if self.word else 'train'} {self.elsewhere}"
        if self.word:
            return (
                f"{self.word!r} can be recognised by its {name} alone (AUC {self.auc:.2f}: {values}); was it recorded "
                "with another device or program? A network may learn that instead of the word: record all words alike"
            )
        return (
            f"{self.split} was recorded otherwise than train: recognised by its {name} alone (AUC {self.auc:.2f}: "
            f"{values}); results on {self.split} say little about clips like those of train"
        )


def find_leaks(conditions: Conditions, words: Sequence[str], sources: SourceFormats) -> list[Leak]:
    """Words that can be recognised by a condition, then splits. `sources`: {} where source formats are not known."""
    leaks = list[Leak]()
    for number, word in enumerate(words):
        of_word = conditions.words == number
        leaks += (Leak(word, "", *found) for found in _told(conditions.values, of_word, ~of_word))
        leaks += (Leak(word, "", *found) for found in _told_by_source(sources, word))
    in_train = conditions.splits == "train"
    for split in ("valid", "test"):
        in_split = conditions.splits == split
        found_in_split = _told(conditions.values, in_split, in_train)
        leaks += (Leak("", split, *found) for found in found_in_split)
    return leaks


def _told(
    values: Values, here: npt.NDArray[np.bool_], there: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, float, str, str]]:
    """(condition, AUC, typical value here, typical value there) of each condition that separates the clips."""
    for at, measure in enumerate(MEASURES):
        one, other = values[here, at], values[there, at]
        if min(len(one), len(other)) < _FEWEST_CLIPS:
            continue
        known_one, known_other = one[~np.isnan(one)], other[~np.isnan(other)]
        if min(len(known_one) / len(one), len(known_other) / len(other)) < _MEASURABLE:
            continue
        auc, low, high = _auc(known_one, known_other), float(np.median(known_one)), float(np.median(known_other))
        if measure == "length_s":
            auc = _length_auc(known_one, known_other, auc)
        elif abs(low - high) < _DIFFERENCES[measure]:
            continue
        if auc >= LEAST_AUC:
            yield measure, auc, _text(measure, low), _text(measure, high)


def _auc(one: Values, other: Values) -> float:
    """The area under the ROC curve of a measure that separates one from the other, in either direction: 0.5 to 1."""
    joined = np.concatenate([one, other])
    _, place, counts = np.unique(joined, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    area = (ranks[: len(one)].sum() - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))
    return float(max(area, 1 - area))


def _length_auc(one: Values, other: Values, auc: float) -> float:
    """How well an unnatural length separates one from the other; 0 where lengths differ as words do."""
    ratio = np.median(one) / max(1e-9, np.median(other))
    lengths, counts = np.unique(one, return_counts=True)
    usual = lengths[counts.argmax()]
    share, elsewhere = counts.max() / len(one), float((other == usual).mean())
    if share >= _ALWAYS and elsewhere <= _SELDOM:
        return float((1 + share - elsewhere) / 2)
    return auc if max(ratio, 1 / max(1e-9, ratio)) >= _LENGTH_RATIO else 0.0


def _told_by_source(sources: SourceFormats, word: str) -> Iterator[tuple[str, float, str, str]]:
    here, there = collections.Counter[str](), collections.Counter[str]()
    for (name, _), counts in sources.items():
        (here if name == word else there).update(counts)
    if min(here.total(), there.total()) < _FEWEST_CLIPS:
        return
    kinds = sorted({*here, *there})
    one, other = (np.array([counts[kind] / counts.total() for kind in kinds]) for counts in (here, there))
    ratio = one / np.maximum(one + other, 1e-9)  # the best order of the formats: by how much likelier they are here
    wins = (ratio[:, None] > ratio) + 0.5 * (ratio[:, None] == ratio)
    auc = float(one @ wins @ other)
    if auc >= LEAST_AUC:
        yield "source", auc, here.most_common(1)[0][0], there.most_common(1)[0][0]


def _text(measure: str, value: float) -> str:
    """A typical value with its unit."""
    return {
        "length_s": f"{value:.3g} s", "level_db": f"{value:.0f} dBFS", "floor_db": f"{value:.0f} dBFS",
        "bandwidth_hz": f"{value / 1000:.1f} kHz", "clipped": f"{value:.2%} of the samples", "offset": f"{value:+.2%}",
    }[measure]  # fmt: skip
