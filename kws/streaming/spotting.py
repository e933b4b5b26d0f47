"""Finds words in recordings: audio -> scores -> events, in flat memory.

blocks (audio_stream.py) -> Scorer -> Scores -> Detector -> Event
                                             -> kept, where events are counted (spot_evaluation.py)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.evaluation.trained import Trained
from kws.streaming.events import Detector, DetectorSettings, Event, words_of
from kws.streaming.scorers import Form, make_scorer
from kws.streaming.scores import Scores, joined
from kws.streaming.window import WindowScorer


@dataclasses.dataclass(frozen=True)
class Spotter:
    """A trained network, and how its scores are computed. hop_ms: of the sliding window."""

    trained: Trained
    form: Form = "auto"
    hop_ms: float = 100.0

    def __post_init__(self) -> None:
        self.words  # noqa: B018  (raises where there is none)
        self.step_s  # noqa: B018

    @property
    def words(self) -> list[str]:
        """The classes that can be events."""
        return words_of(self.trained.classes)

    @property
    def window_s(self) -> float:
        """Seconds of audio that a clip has."""
        return self.trained.samples / SAMPLE_RATE_HZ

    @property
    def step_s(self) -> float:
        """Seconds between scores."""
        return make_scorer(self.trained, self.form, self.hop_ms).step_s

    @property
    def network(self) -> dict[str, Any]:
        """What scores depend on: a threshold holds for one of these only."""
        is_window = isinstance(make_scorer(self.trained, self.form, self.hop_ms), WindowScorer)
        return {
            "name": self.trained.config.model.name,
            "checkpoint": self.trained.checkpoint.name,
            "weights": self.trained.weights,
            "scorer": "window" if is_window else "stream",
            "step_ms": round(1000 * self.step_s, 3),
        }

    def events(self, blocks: Iterable[Pcm], settings: DetectorSettings) -> Iterator[Event]:
        """The events of one recording, as soon as the audio that they depend on is there."""
        detector = Detector(self.trained.classes, self.step_s, settings)
        for scores in self.scores(blocks):
            yield from detector.push(scores)

    def scores(self, blocks: Iterable[Pcm]) -> Iterator[Scores]:
        """The scores of one recording, of all classes."""
        scorer = make_scorer(self.trained, self.form, self.hop_ms)
        for block in blocks:
            yield scorer.push(block)
        yield scorer.finish()


def word_scores(scores: Iterable[Scores], classes: Sequence[str]) -> Scores:
    """All scores of a recording, of the classes that can be events alone: (M, W)."""
    columns = [classes.index(word) for word in words_of(classes)]
    parts = [Scores(part.times, np.ascontiguousarray(part.probabilities[:, columns])) for part in scores]
    return joined(parts)
