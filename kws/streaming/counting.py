"""Events against truth: hits, misses, false accepts, and how long after the word's end a hit came.

events, words spoken -> match -> Outcome of one recording -> Tally over recordings -> figures with intervals

word `yes`      |--------|
time            2.0      2.6   3.1       3.6
event yes at       2.5              ->  hit, latency -0.1 s
event yes at          3.0, 3.4      ->  the first is a hit, the second is not counted
event yes at              3.4       ->  miss; the event is not counted
event no at        2.5              ->  miss and false accept
event yes at                  3.7   ->  miss and false accept
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from kws.errors import UsageError
from kws.metrics import poisson_interval, wilson_interval
from kws.streaming.events import Event

SAME_TIME_S = 1e-6
"""Times that differ by less are equal: sums of decimal fractions are not exact."""


class Spoken(NamedTuple):
    """A word in a recording: what a detector should find. Times in seconds."""

    word: str
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class CountingRules:
    """What counts as what; times are inclusive.

    hit_s: the first event of a word from its start to `hit_s` after its end is a hit. ignore_s: other events of the
    word up to `ignore_s` after its end are not counted; every other event is a false accept. hours: whether false
    accepts are divided by the hours of all audio, or without the times of the words (up to ignore_s after them).
    """

    hit_s: float = 0.5
    ignore_s: float = 1.0
    hours: Literal["all", "outside words"] = "all"

    def __post_init__(self) -> None:
        if not 0 <= self.hit_s <= self.ignore_s < math.inf:
            raise UsageError(f"hit_s={self.hit_s:g}, ignore_s={self.ignore_s:g}; wanted 0 <= hit_s <= ignore_s")


RULES: dict[str, CountingRules] = {
    "kws": CountingRules(),
    "esphome": CountingRules(),
    "microwakeword": CountingRules(hit_s=1.0, ignore_s=1.0, hours="outside words"),
    "mlperf-tiny": CountingRules(),
    "openwakeword": CountingRules(hit_s=1.0, ignore_s=1.0, hours="outside words"),
    "picovoice": CountingRules(hit_s=0.5, ignore_s=0.5),
    "wekws": CountingRules(hit_s=1.0, ignore_s=1.0, hours="outside words"),
}
"""Counting named after the tools that count in this way: kws/streaming/events.py has their detection. Sources in
docs/detection.md."""


class Hit(NamedTuple):
    """An event and the word that it found."""

    event: Event
    spoken: Spoken

    @property
    def latency_s(self) -> float:
        """From the word's end to the event; negative where the event came before the end."""
        return self.event.time_s - self.spoken.end_s


class Outcome(NamedTuple):
    """What became of the events and words of one recording. seconds: the time that counts for false accepts."""

    hits: list[Hit]
    misses: list[Spoken]
    false_accepts: list[Event]
    not_counted: list[Event]
    seconds: float


class SpokenTimes:
    """Finds the words spoken around a time."""

    def __init__(self, spoken: Sequence[Spoken], ignore_s: float) -> None:
        self._ignore_s = ignore_s
        self._places: dict[str, list[int]] = {}
        for place in sorted(range(len(spoken)), key=lambda place: (spoken[place].end_s, place)):
            self._places.setdefault(spoken[place].word, []).append(place)
        self._ends = {word: [spoken[place].end_s for place in places] for word, places in self._places.items()}
        starts = {word: [spoken[place].start_s for place in places] for word, places in self._places.items()}
        self._starts = starts
        # Words may lie inside each other, so a later end does not mean a later start.
        self._first_start_from = {
            word: np.minimum.accumulate(values[::-1])[::-1].tolist() for word, values in starts.items()
        }

    def at(self, word: str, time_s: float) -> list[int]:
        """Places in the list of those occurrences of `word` that begin before `time_s` and end up to `ignore_s` before
        it, in order of their ends."""
        ends, latest = self._ends.get(word, []), time_s + SAME_TIME_S
        found, number = list[int](), bisect.bisect_left(ends, time_s - self._ignore_s - SAME_TIME_S)
        while number < len(ends) and self._first_start_from[word][number] <= latest:
            if self._starts[word][number] <= latest:
                found.append(self._places[word][number])
            number += 1
        return found


def match(events: Sequence[Event], spoken: Sequence[Spoken], duration_s: float, rules: CountingRules) -> Outcome:
    """Counts the events of one recording of that duration.

    An event hits the occurrence of its word that ends first, of those around it that have no hit yet: so as many words
    are hit as can be.
    """
    times, hit_places = SpokenTimes(spoken, rules.ignore_s), set[int]()
    outcome = Outcome([], [], [], [], counted_seconds(spoken, duration_s, rules))
    for event in sorted(events, key=lambda event: event.time_s):
        around = times.at(event.word, event.time_s)
        open_places = [
            place for place in around
            if place not in hit_places and event.time_s <= spoken[place].end_s + rules.hit_s + SAME_TIME_S
        ]  # fmt: skip
        if open_places:
            hit_places.add(open_places[0])
            outcome.hits.append(Hit(event, spoken[open_places[0]]))
        else:
            (outcome.not_counted if around else outcome.false_accepts).append(event)
    outcome.misses.extend(word for place, word in enumerate(spoken) if place not in hit_places)
    return outcome


def counted_seconds(spoken: Iterable[Spoken], duration_s: float, rules: CountingRules) -> float:
    """The seconds of a recording by which its false accepts are divided."""
    if rules.hours == "all":
        return duration_s
    counted, free_from = 0.0, 0.0
    for word in sorted(spoken, key=lambda word: word.start_s):
        counted += max(0.0, min(word.start_s, duration_s) - free_from)
        free_from = max(free_from, word.end_s + rules.ignore_s)
    return counted + max(0.0, duration_s - free_from)


def summarise(outcomes: Sequence[Outcome], words: Sequence[str]) -> dict[str, Any]:
    """The figures over all recordings and words, as plain values, and the same under `per_word` for each of `words`.

    An undefined figure, such as the missed share of a word that was never spoken, is None. Intervals are 95 %: Wilson's
    for the missed share, the exact Poisson one for false accepts an hour. Latencies are seconds from the word's end:
    half of the hits, and 95 % of them, came at this time or earlier.
    """
    hours = math.fsum(outcome.seconds for outcome in outcomes) / 3600
    hits = [hit for outcome in outcomes for hit in outcome.hits]
    misses = [word for outcome in outcomes for word in outcome.misses]
    false_accepts = [event for outcome in outcomes for event in outcome.false_accepts]
    per_word = [
        {"word": word}
        | _figures(
            [hit.latency_s for hit in hits if hit.spoken.word == word],
            sum(missed.word == word for missed in misses),
            sum(event.word == word for event in false_accepts),
            hours,
        )
        for word in words
    ]
    total = _figures([hit.latency_s for hit in hits], len(misses), len(false_accepts), hours)
    not_counted = sum(len(outcome.not_counted) for outcome in outcomes)
    return {"hours": hours, **total, "not_counted": not_counted, "per_word": per_word}


def _figures(latencies: Sequence[float], missed: int, false_accepts: int, hours: float) -> dict[str, Any]:
    return {
        **missed_figures(missed, missed + len(latencies)),
        **false_accept_figures(false_accepts, hours),
        "latency_median_s": _latency(latencies, 0.5),
        "latency_95_s": _latency(latencies, 0.95),
    }


def missed_figures(missed: int, spoken: int) -> dict[str, Any]:
    """Missed words, and their share with its 95 % interval."""
    share = missed / spoken if spoken else None
    interval = list(wilson_interval(missed, spoken))
    return {"spoken": spoken, "missed": missed, "missed_share": share, "missed_interval95": interval}


def false_accept_figures(false_accepts: int, hours: float) -> dict[str, Any]:
    """False accepts, and their number an hour with its 95 % interval; None where there is no audio."""
    rate = false_accepts / hours if hours else None
    interval = [end / hours for end in poisson_interval(false_accepts)] if hours else None
    return {"false_accepts": false_accepts, "per_hour": rate, "per_hour_interval95": interval}


def _latency(latencies: Sequence[float], share: float) -> float | None:
    """The least latency that `share` of the hits do not exceed."""
    return float(np.quantile(latencies, share, method="inverted_cdf")) if latencies else None
