from __future__ import annotations

import numpy as np
import pytest

from kws.streaming.events import Detector, DetectorSettings, Event
from kws.streaming.near_misses import NearMisses
from kws.streaming.scores import Scores

CLASSES = ["silence", "yes", "no"]
PLAIN = DetectorSettings(0.6, smooth_ms=0, refractory_ms=1000)


def scores(yes: dict[float, float], no: dict[float, float] | None = None, seconds: float = 8.0) -> Scores:
    """Scores every 0.1 s, 0.1 for both words but at the times that are given."""
    times = np.arange(1, round(seconds * 10) + 1) / 10
    rows = np.full((len(times), 3), 0.1, np.float32)
    for column, given in ((1, yes), (2, no or {})):
        for time_s, value in given.items():
            rows[round(time_s * 10) - 1, column] = value
    return Scores(times, rows)


def near_misses(found: Scores, settings: DetectorSettings = PLAIN, chunk: int = 1) -> list[Event]:
    detector, finder = Detector(CLASSES, 0.1, settings), NearMisses(CLASSES, 0.1, settings)
    misses: list[Event] = []
    for at in range(0, len(found.times), chunk):
        part = Scores(found.times[at : at + chunk], found.probabilities[at : at + chunk])
        misses += finder.push(part, detector.push(part))
    return misses + finder.finish()


def test_what_reaches_half_the_threshold_is_a_near_miss_unless_an_event_is_near() -> None:
    found = scores({2.0: 0.31, 4.0: 0.31, 4.9: 0.7}, {6.5: 0.29, 7.9: 0.5})
    assert [(event.word, event.time_s) for event in near_misses(found)] == [("yes", 2.0), ("no", 7.9)]


def test_an_event_before_it_counts_too_and_of_any_word() -> None:
    assert near_misses(scores({2.0: 0.9}, {2.8: 0.4})) == []
    assert [event.time_s for event in near_misses(scores({2.0: 0.9}, {3.2: 0.4}))] == [3.2]


def test_without_a_refractory_time_a_near_miss_is_a_second_away_from_an_event() -> None:
    settings = DetectorSettings({"yes": 0.6, "no": 0.9}, smooth_ms=0, refractory_ms=0)
    assert near_misses(scores({2.0: 0.4, 2.5: 0.7}, {2.3: 0.5, 4.0: 0.44, 5.0: 0.46}), settings)[0].time_s == 5.0


@pytest.mark.parametrize("chunk", [3, 7, 80])
def test_chunks_have_no_influence(chunk: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((399, 3)) * (rng.random((399, 1)) < 0.05)
    found = Scores(np.arange(1, 400) / 10, rows.astype(np.float32))
    assert near_misses(found, chunk=chunk) == near_misses(found) != []
