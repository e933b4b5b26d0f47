"""Finds words in recordings: audio -> scores -> events, in flat memory.

blocks (recordings.py, audio_stream.py) -> Scorer -> Scores -> Detector -> Event
                                                            -> kept, where events are counted (spot_evaluation.py)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.evaluation.trained import Trained
from kws.streaming.events import Detector, DetectorSettings, Event, words_of
from kws.streaming.scorers import HOP_MS, Form, make_scorer, uses_stream
from kws.streaming.scores import Scorer, Scores, joined


@dataclasses.dataclass(frozen=True)
class Spotter:
    """A trained network, and how its scores are computed. hop_ms: of the sliding window.

    Raises UsageError as make_scorer, and where no class of the network can be an event.
    """

    trained: Trained
    form: Form = "auto"
    hop_ms: float = HOP_MS

    def __post_init__(self) -> None:
        self.words  # noqa: B018  (raises where there is none)
        self.step_s  # noqa: B018  (raises where there is no such scorer)

    @property
    def words(self) -> list[str]:
        """The classes that can be events."""
        return words_of(self.trained.classes)

    @property
    def window_s(self) -> float:
        """Seconds of audio that a clip has."""
        return self.trained.samples / SAMPLE_RATE_HZ

    @functools.cached_property
    def step_s(self) -> float:
        """Seconds between scores."""
        return self.new_scorer().step_s

    @property
    def network(self) -> dict[str, Any]:
        """What scores depend on: a stored threshold is valid for equal values only."""
        return {
            "name": self.trained.config.model.name,
            "checkpoint": self.trained.checkpoint.name,
            "weights": self.trained.weights,
            "scorer": "stream" if uses_stream(self.trained, self.form) else "window",
            "step_ms": round(1000 * self.step_s, 3),
        }

    def new_scorer(self) -> Scorer:
        """A scorer for one recording."""
        return make_scorer(self.trained, self.form, self.hop_ms)

    def events(self, blocks: Iterable[Pcm], settings: DetectorSettings) -> Iterator[Event]:
        """The events of one recording, as soon as the audio that they depend on is there."""
        detector = Detector(self.trained.classes, self.step_s, settings)
        for scores in self.scores(blocks):
            yield from detector.push(scores)

    def scores(self, blocks: Iterable[Pcm]) -> Iterator[Scores]:
        """The scores of one recording, of all classes."""
        scorer = self.new_scorer()
        for block in blocks:
            yield scorer.push(block)
        yield scorer.finish()


def word_scores(scores: Iterable[Scores], classes: Sequence[str]) -> Scores:
    """All scores of a recording, of the classes that can be events alone: (M, W)."""
    columns = [classes.index(word) for word in words_of(classes)]
    parts = [Scores(part.times, np.ascontiguousarray(part.probabilities[:, columns])) for part in scores]
    return joined(parts)
