"""Detection: scores come in, events go out, in chunks of any size.

    Scores -> mean of each word's probability over the last smooth_ms -> rises to the threshold -> Event

For example, with a score every 100 ms, smooth_ms = 300, threshold 0.5 and these probabilities of the word `yes`:

    time            0.1  0.2  0.3  0.4  0.5  0.6  0.7
    probability     0.0  0.0  0.6  0.9  0.6  0.0  0.0
    mean            0.0  0.0  0.2  0.5  0.7  0.5  0.2      of three scores
    event                          ^                       at 0.4 s, probability 0.5

Before the first score all probabilities count as 0. docs/detection.md explains the definitions and the presets.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kws.corpus.tasks import SILENCE, UNKNOWN
from kws.errors import UsageError, did_you_mean
from kws.streaming.scores import Scores

Floats = npt.NDArray[np.float64]
_EPSILON = 1e-6
"""Of a score: 300 ms are 3 scores of 0.1 s, although 0.3 / 0.1 is a little less than 3 as a float."""


class Event(NamedTuple):
    """A detected word. time_s: of the score at which it was detected, in seconds from the start of the recording.
    probability: the mean over smooth_ms at that score."""

    time_s: float
    word: str
    probability: float


@dataclasses.dataclass(frozen=True)
class DetectorSettings:
    """How scores become events.

    threshold: more than 0, at most 1; of every word, or a number for each word. smooth_ms: the probabilities of the
    scores in this time are averaged, rounded to whole scores, at least one. refractory_ms: after an event there is none
    of any word for this time. retrigger: whether a word whose mean stays at the threshold or above gives another event
    after the refractory time; otherwise the mean must fall below the threshold first.
    """

    threshold: float | Mapping[str, float]
    smooth_ms: float = 300
    refractory_ms: float = 1000
    retrigger: bool = False

    def __post_init__(self) -> None:
        named = self.threshold if isinstance(self.threshold, Mapping) else {"": self.threshold}
        for word, value in named.items():
            if not 0 < value <= 1:
                of = f" of {word}" if word else ""
                raise UsageError(f"threshold{of}: {value:g}; wanted more than 0 and at most 1")
        for name in ("smooth_ms", "refractory_ms"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name}: {getattr(self, name):g}; wanted 0 or more milliseconds")

    def num_smoothed(self, step_s: float) -> int:
        """Number of scores that are averaged."""
        return max(1, round(self.smooth_ms / 1000 / step_s))

    def num_refractory(self, step_s: float) -> int:
        """The next event is at least this many scores after an event; at least 1."""
        return max(1, math.ceil(self.refractory_ms / 1000 / step_s - _EPSILON))

    def thresholds(self, words: Sequence[str]) -> Floats:
        """The threshold of each word. Raises UsageError for a word without one, or one that is no word."""
        if not isinstance(self.threshold, Mapping):
            return np.full(len(words), self.threshold, np.float64)
        unknown = [word for word in self.threshold if word not in words]
        if unknown:
            raise UsageError(
                f"threshold: {unknown[0]} is no word of this network, which has {', '.join(words)}"
                f"{did_you_mean(unknown[0], words)}"
            )
        missing = [word for word in words if word not in self.threshold]
        if missing:
            raise UsageError(f"threshold: none for {', '.join(missing)}; wanted one for each word, or one for all")
        return np.asarray([self.threshold[word] for word in words], np.float64)


PRESETS: dict[str, DetectorSettings] = {
    "kws": DetectorSettings(0.5),
    "esphome": DetectorSettings(0.97, smooth_ms=150, refractory_ms=1000),
    "microwakeword": DetectorSettings(0.97, smooth_ms=150, refractory_ms=750, retrigger=True),
    "mlperf-tiny": DetectorSettings(0.95, smooth_ms=0, refractory_ms=1000, retrigger=True),
    "openwakeword": DetectorSettings(0.5, smooth_ms=0, refractory_ms=4000),
    "picovoice": DetectorSettings(0.5, smooth_ms=0, refractory_ms=0),
    "wekws": DetectorSettings(0.5, smooth_ms=0, refractory_ms=500, retrigger=True),
}
"""Settings named after the tools that detect in this way; kws/streaming/counting.py has their counting, under the same
names. docs/detection.md gives the source of every number."""


def words_of(classes: Sequence[str]) -> list[str]:
    """The classes that can be events: all but unknown and silence. Raises UsageError where there is none."""
    words = [name for name in classes if name not in (UNKNOWN, SILENCE)]
    if not words:
        raise UsageError(f"the network has the classes {', '.join(classes)}; wanted a word to detect among them")
    return words


class Smoother:
    """Means of the probabilities over the last `num` scores.

    The additions are made in the same order for any chunks, so that they have no influence on the result.
    """

    def __init__(self, num_columns: int, num: int) -> None:
        self._last = np.zeros((num - 1, num_columns), np.float64)

    def push(self, probabilities: npt.NDArray[np.floating]) -> Floats:
        """(M, C) probabilities to (M, C) means."""
        joined = np.concatenate([self._last, probabilities])
        num, rows = len(self._last) + 1, len(probabilities)
        total = np.zeros((rows, joined.shape[1]), np.float64)
        for first in range(num):
            total += joined[first : first + rows]
        self._last = joined[rows:].copy()  # so that the rest of a long track is not kept
        return total / num


class Detector:
    """Finds events in the scores of one recording. `words`: the classes that can be events; `latest`: their (W,) means
    at the last score, for a display."""

    def __init__(self, classes: Sequence[str], step_s: float, settings: DetectorSettings) -> None:
        self.words = words_of(classes)
        self.latest: Floats = np.zeros(len(self.words), np.float64)
        self._columns = [classes.index(word) for word in self.words]
        self._thresholds = settings.thresholds(self.words)
        self._smoother = Smoother(len(self.words), settings.num_smoothed(step_s))
        self._num_refractory = settings.num_refractory(step_s)
        self._retrigger = settings.retrigger
        self._refractory_left = 0
        """The number of further scores at which there can be no event."""

    def push(self, scores: Scores) -> list[Event]:
        """The events of the next scores, in order of time."""
        means = self._smoother.push(scores.probabilities[:, self._columns])
        before = np.concatenate([self.latest[None], means])[:-1]
        self.latest = means[-1] if len(means) else self.latest
        fires = means >= self._thresholds
        if not self._retrigger:
            fires &= before < self._thresholds
        events, free = list[Event](), self._refractory_left
        for row in np.flatnonzero(fires.any(axis=1)):
            if row >= free:
                # Of several words at one score the most probable one; of equal ones the first.
                column = int(np.where(fires[row], means[row], -1.0).argmax())
                events.append(Event(float(scores.times[row]), self.words[column], float(means[row, column])))
                free = int(row) + self._num_refractory
        self._refractory_left = max(0, free - len(means))
        return events
