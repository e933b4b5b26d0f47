"""Missed words against false accepts, for all thresholds at once.

    tracks (scores, words spoken) -> sweep -> Curve -> figures at a wanted number of false accepts an hour, DET curve

The sweep goes through the scores once. Each rise of a word's mean, from u to v, is an event for exactly the thresholds
T with u < T <= v: a slice of the sorted thresholds. For these it updates the refractory time, hits and false accepts as
Detector and match do for one threshold; tests compare the two.

**Which thresholds.** All at which an event appears, disappears or moves: the values u and v (with retrigger, the values
of all means). Below a lowest threshold
nothing is computed: 0.01, or where there are more rises than 500 an hour and 4 a word. Of more than 20,000 thresholds
every n-th in order of size is computed. `Curve.exact`: whether none was left out above the lowest.

**More false accepts at a higher threshold.** This happens: a mean that stays above a low threshold for seconds gives
one event, and two where it falls below a higher threshold in between; an event of a word may also hide a false accept
less than the refractory time after it, and a higher threshold that misses the word no longer does. A number of false
accepts an hour is therefore kept by a threshold only if it is kept by all higher ones too. In the same way a low
threshold may miss words that a higher one finds, as the mean never falls below it. So of the thresholds that keep a
number of false accepts the one with the fewest misses is taken, and not the lowest.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kws.streaming.counting import (
    SAME_TIME_S,
    CountingRules,
    Spoken,
    SpokenTimes,
    counted_seconds,
    false_accept_figures,
    missed_figures,
)
from kws.streaming.events import DetectorSettings, Smoother, words_of
from kws.streaming.scores import Scores

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
RATES = (0.1, 0.5, 1.0, 10.0)
"""False accepts an hour for which figures are reported."""
MAX_THRESHOLDS, LOWEST_THRESHOLD = 20_000, 0.01
_RISES_AN_HOUR, _RISES_A_WORD, _FEWEST_RISES = 500, 4, 200
_BLOCK_ROWS, _LEVELS = 65_536, 1000


class Track(NamedTuple):
    """One recording: its scores, the words spoken in it, and its duration in seconds."""

    scores: Scores
    spoken: Sequence[Spoken]
    duration_s: float


@dataclasses.dataclass(frozen=True)
class Curve:
    """Counts for G thresholds in rising order and W words. hits, false_accepts: (W, G); spoken: (W,)."""

    words: tuple[str, ...]
    thresholds: Floats
    hits: Ints
    false_accepts: Ints
    spoken: Ints
    hours: float
    exact: bool

    def place(self, per_hour: float) -> int | None:
        """Place of the threshold that misses the fewest words, of those at which, and above which, there are at most
        `per_hour` false accepts an hour; of equal ones the highest.

        None where even the highest threshold has more, or where there is no threshold.
        """
        fits = np.flatnonzero(self._most_from() <= per_hour * self.hours + 1e-9)
        if not fits.size:
            return None
        missed = self._missed()[fits[0] :]
        return len(self.thresholds) - 1 - int(missed[::-1].argmin())

    def point(self, per_hour: float) -> dict[str, Any] | None:
        """The figures at the threshold of `place`, as plain values, over all words and per word; None as there."""
        place = self.place(per_hour)
        return None if place is None else {"wanted_per_hour": per_hour} | self.figures(place)

    def figures(self, place: int) -> dict[str, Any]:
        """The figures at a threshold, with intervals: see kws/streaming/counting.py."""
        missed, false_accepts = self.spoken - self.hits[:, place], self.false_accepts[:, place]

        def both(missed: int, spoken: int, false_accepts: int) -> dict[str, Any]:
            return missed_figures(missed, spoken) | false_accept_figures(false_accepts, self.hours)

        return {
            "threshold": float(self.thresholds[place]),
            **both(int(missed.sum()), int(self.spoken.sum()), int(false_accepts.sum())),
            "per_word": [
                {"word": word} | both(int(missed[row]), int(self.spoken[row]), int(false_accepts[row]))
                for row, word in enumerate(self.words)
            ],
        }

    def staircase(self, word: str | None = None) -> list[tuple[int, float, int]]:
        """The DET curve: (false accepts, threshold, missed words) of each threshold that misses fewer words than all
        higher ones, with the most false accepts at it and above it; of one word or, by default, of all.

        In rising order of false accepts, and the first step is there even if it misses all words. Thresholds are common
        to all words.
        """
        rows = slice(None) if word is None else slice(self.words.index(word), self.words.index(word) + 1)
        steps = dict[int, tuple[int, float, int]]()
        fewest = math.inf
        most, missed = self._most_from(rows).tolist(), self._missed(rows).tolist()
        for place in reversed(range(len(self.thresholds))):
            if missed[place] < fewest:
                fewest = missed[place]
                steps[most[place]] = (most[place], float(self.thresholds[place]), fewest)
        return list(steps.values())

    def _missed(self, rows: slice = slice(None)) -> Ints:
        """(G,) missed words."""
        missed: Ints = self.spoken[rows].sum() - self.hits[rows].sum(axis=0)
        return missed

    def _most_from(self, rows: slice = slice(None)) -> Ints:
        """(G,) the largest number of false accepts at each threshold and those above it."""
        return np.maximum.accumulate(self.false_accepts[rows].sum(axis=0)[::-1])[::-1]


def sweep(
    tracks: Sequence[Track], classes: Sequence[str], step_s: float, settings: DetectorSettings, rules: CountingRules
) -> Curve:
    """The curve over all recordings. Of `settings` all but the threshold is used: the same one for all words."""
    words = words_of(classes)
    columns = [classes.index(word) for word in words]

    def means(track: Track) -> Floats:
        smoother = Smoother(len(words), settings.num_smoothed(step_s))
        return smoother.push(track.scores.probabilities[:, columns])

    hours = math.fsum(counted_seconds(track.spoken, track.duration_s, rules) for track in tracks) / 3600
    spoken = Counter(word.word for track in tracks for word in track.spoken)
    most_rises = max(_FEWEST_RISES, round(_RISES_AN_HOUR * hours) + _RISES_A_WORD * spoken.total())
    thresholds, exact = _thresholds(lambda: map(means, tracks), most_rises, settings.retrigger)
    counts = np.zeros((2, len(words), len(thresholds)), np.int64)
    for track in tracks:
        _TrackCounter(counts, thresholds, track, settings.num_refractory(step_s), rules).run(
            means(track), words, settings.retrigger
        )
    spoken_counts = np.asarray([spoken[word] for word in words], np.int64)
    return Curve(tuple(words), thresholds, counts[0], counts[1], spoken_counts, hours, exact)


def _thresholds(means: Callable[[], Iterable[Floats]], most_rises: int, retrigger: bool) -> tuple[Floats, bool]:
    """The thresholds to compute, in rising order, and whether none is left out above the lowest."""
    lowest = _lowest(means(), most_rises)
    low, high, other = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for _, before, now in _all_blocks(means()):
        rises = (now > before) & (now >= lowest)
        low.append(before[rises])
        high.append(now[rises])
        if retrigger:  # an event may also come while the mean falls
            other.append(now[now >= lowest])
    froms, tos = np.concatenate(low), np.concatenate(high)
    values = np.unique(np.concatenate([froms, tos, *other]))
    values = values[values >= lowest]
    # The number of rises for each threshold, from the first and the last threshold of each rise.
    change = np.bincount(np.searchsorted(values, froms, "right"), minlength=len(values) + 1)
    change = change - np.bincount(np.searchsorted(values, tos, "right"), minlength=len(values) + 1)
    too_many = np.flatnonzero(np.cumsum(change)[:-1] > most_rises)
    kept = values[too_many[-1] + 1 :] if too_many.size else values
    if len(kept) <= MAX_THRESHOLDS:
        return kept, True
    return kept[np.linspace(0, len(kept) - 1, MAX_THRESHOLDS).round().astype(np.int64)], False


def _lowest(means: Iterable[Floats], most_rises: int) -> float:
    """A threshold just below the highest one with more than `most_rises` rises, so that the many values of noise need
    not be sorted."""
    change = np.zeros(_LEVELS + 2, np.int64)
    for _, before, now in _all_blocks(means):
        first, last = (before * _LEVELS).astype(np.int64) + 1, (now * _LEVELS).astype(np.int64)
        rises = last >= first
        change += np.bincount(first[rises], minlength=_LEVELS + 2) - np.bincount(last[rises] + 1, minlength=_LEVELS + 2)
    too_many = np.flatnonzero(np.cumsum(change) > most_rises)
    return max(LOWEST_THRESHOLD, float(too_many[-1]) / _LEVELS if too_many.size else 0.0)


def _all_blocks(means: Iterable[Floats]) -> Iterator[tuple[int, Floats, Floats]]:
    for track in means:
        yield from _blocks(track)


def _blocks(means: Floats) -> Iterator[tuple[int, Floats, Floats]]:
    """The rows of a track in blocks, which bound the memory: number of the first row, the means before, the means."""
    last = np.zeros((1, means.shape[1]))
    for start in range(0, len(means), _BLOCK_ROWS):
        now = means[start : start + _BLOCK_ROWS]
        yield start, np.concatenate([last, now[:-1]]), now
        last = now[-1:]


class _TrackCounter:
    """Adds the events of one track to `counts` (2, W, G): hits and false accepts of every word and threshold."""

    def __init__(
        self, counts: Ints, thresholds: Floats, track: Track, num_refractory: int, rules: CountingRules
    ) -> None:
        self._hits, self._false_accepts = counts
        self._thresholds, self._track, self._num_refractory = thresholds, track, num_refractory
        self._free_from = np.zeros(len(thresholds), np.int64)
        """The score from which each threshold may have its next event."""
        self._times = SpokenTimes(track.spoken, rules.ignore_s)
        self._hit_until = [word.end_s + rules.hit_s + SAME_TIME_S for word in track.spoken]
        self._hit_by: dict[int, Bools] = {}
        """For words that may still be hit: the thresholds that have hit them."""

    def run(self, means: Floats, words: Sequence[str], retrigger: bool) -> None:
        """Counts all events, in order of time. means: (M, W)."""
        lowest = self._thresholds[0] if self._thresholds.size else np.inf
        for start, before, now in _blocks(means):
            rows, columns = np.nonzero((now >= lowest) & ((now > before) | retrigger))
            values = now[rows, columns]
            end = np.searchsorted(self._thresholds, values, "right")
            first = (
                np.zeros_like(end) if retrigger else np.searchsorted(self._thresholds, before[rows, columns], "right")
            )
            # As in Detector: of several words at one score the most probable one, of equal ones the first.
            order = np.lexsort((columns, -values, rows))
            for at in order[end[order] > first[order]].tolist():
                column = int(columns[at])
                self._fire(start + int(rows[at]), slice(first[at], end[at]), column, words[column])

    def _fire(self, row: int, part: slice, column: int, word: str) -> None:
        """Counts the event of a word at a score, for those thresholds of `part` that are not in a refractory time."""
        fires = self._free_from[part] <= row
        if not fires.any():
            return
        self._free_from[part][fires] = row + self._num_refractory
        time_s = float(self._track.scores.times[row])
        around = self._times.at(word, time_s)
        if not around:
            self._false_accepts[column, part] += fires
        for place in around:
            if time_s <= self._hit_until[place]:
                hit_by = self._hit_by_of(place, time_s)[part]
                new = fires & ~hit_by
                hit_by |= new
                fires &= ~new
                self._hits[column, part] += new

    def _hit_by_of(self, place: int, time_s: float) -> Bools:
        if place not in self._hit_by:
            # Without those that are over: memory would grow with words x thresholds.
            self._hit_by = {other: hit_by for other, hit_by in self._hit_by.items() if self._hit_until[other] >= time_s}
            self._hit_by[place] = np.zeros(len(self._thresholds), np.bool_)
        return self._hit_by[place]
