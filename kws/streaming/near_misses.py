"""Near misses: what would be an event at half the threshold, and is none. Free of torch.

A near miss is either the word, spoken too softly or too far away, or something that nearly passed for it: both are
worth hearing. It is an event of a second detector with half the thresholds that has no event of the first one within
the refractory time, but at least a second, before or after.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from kws.streaming.events import Detector, DetectorSettings, Event
from kws.streaming.scores import Scores

SHARE = 0.5
"""Threshold of a near miss, as a share of that of an event."""
_LEAST_MS = 1000.0
"""The refractory time of near misses is at least this: a preset may have none."""


class NearMisses:
    """Finds near misses in the scores of a scorer, and in the events that its detector found there."""

    def __init__(self, classes: Sequence[str], step_s: float, settings: DetectorSettings) -> None:
        self._detector = Detector(classes, step_s, _lowered(settings))
        self.delay_s = max(_LEAST_MS, settings.refractory_ms) / 1000
        """How long after its time a near miss is known."""
        self._candidates, self._events = collections.deque[Event](), collections.deque[float]()

    def push(self, scores: Scores, events: Iterable[Event]) -> list[Event]:
        """The near misses that are known after these scores; `events` are those found in them."""
        self._events.extend(event.time_s for event in events)
        self._candidates.extend(self._detector.push(scores))
        return self._known(float(scores.times[-1]) - self.delay_s) if len(scores.times) else []

    def finish(self) -> list[Event]:
        """The near misses that are still open at the end."""
        return self._known(float("inf"))

    def _known(self, until_s: float) -> list[Event]:
        """The near misses among the candidates up to `until_s`."""
        found = list[Event]()
        while self._candidates and self._candidates[0].time_s < until_s:
            candidate = self._candidates.popleft()
            while self._events and self._events[0] < candidate.time_s - self.delay_s:
                self._events.popleft()
            if not any(abs(time_s - candidate.time_s) <= self.delay_s for time_s in self._events):
                found.append(candidate)
        return found


def _lowered(settings: DetectorSettings) -> DetectorSettings:
    threshold = settings.threshold
    return dataclasses.replace(
        settings, refractory_ms=max(_LEAST_MS, settings.refractory_ms),
        threshold={word: SHARE * value for word, value in threshold.items()}
        if isinstance(threshold, Mapping)
        else SHARE * threshold,
    )  # fmt: skip
