"""Scores become events: by hand, and whatever the chunks are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.errors import UsageError
from kws.streaming.counting import RULES
from kws.streaming.events import PRESETS, Detector, DetectorSettings, Event, Smoother
from kws.streaming.scores import Scores
from tests.streaming.made_scores import CLASSES, STEP_S, pulses, random_scores, scores_of

EACH = {"smooth_ms": 0.0}
"""No smoothing: a score's probability is its mean."""


def detect(scores: Scores, threshold: float | dict[str, float] = 0.5, **more: Any) -> list[Event]:
    return Detector(CLASSES, STEP_S, DetectorSettings(threshold, **more)).push(scores)


def found(events: Sequence[Event]) -> list[tuple[float, str]]:
    return [(round(event.time_s, 6), event.word) for event in events]


def test_the_example_of_the_module() -> None:
    (event,) = detect(scores_of(yes=[0, 0, 0.6, 0.9, 0.6, 0, 0]))
    assert (round(event.time_s, 6), event.word) == (0.4, "yes")
    assert event.probability == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(("peak", "count"), [(0.75, 1), (np.nextafter(np.float32(0.75), 0, dtype=np.float32), 0)])
def test_a_mean_exactly_at_the_threshold_is_an_event(peak: float, count: int) -> None:
    assert len(detect(scores_of(yes=[0, peak, 0]), 0.75, **EACH)) == count
    assert len(detect(scores_of(yes=[peak, peak, peak, 0]), 0.75)) == count


def test_a_word_that_stays_above_the_threshold_is_one_event_unless_it_may_fire_again() -> None:
    long = scores_of(yes=[0.9] * 35)
    assert found(detect(long, **EACH)) == [(0.1, "yes")]
    assert found(detect(long, **EACH, retrigger=True)) == [(0.1, "yes"), (1.1, "yes"), (2.1, "yes"), (3.1, "yes")]


def test_missing_scores_before_the_first_count_as_zero() -> None:
    assert found(detect(scores_of(yes=[0.9, 0.9, 0.9]))) == [(0.2, "yes")]


@pytest.mark.parametrize(("second", "count"), [(1.0, 1), (1.1, 2), (1.2, 2)])
def test_refractory_time_holds_back_every_word(second: float, count: int) -> None:
    # An event at 0.1 s: the next one may come 1,000 ms later.
    other = scores_of(yes=pulses(20, (0.1, 0.9)), no=pulses(20, (second, 0.9)))
    same = scores_of(yes=pulses(20, (0.1, 0.9), (second, 0.9)))
    assert len(detect(other, **EACH)) == len(detect(same, **EACH)) == count


def test_a_rise_inside_the_refractory_time_is_lost() -> None:
    scores = scores_of(yes=pulses(30, (0.1, 0.9)), no=[0] * 5 + [0.9] * 20)
    assert found(detect(scores, **EACH)) == [(0.1, "yes")]
    assert found(detect(scores, **EACH, retrigger=True)) == [(0.1, "yes"), (1.1, "no"), (2.1, "no")]


def test_of_two_words_at_once_the_more_probable_is_the_event() -> None:
    assert found(detect(scores_of(yes=[0.6], no=[0.4]), 0.3, **EACH)) == [(0.1, "yes")]
    assert found(detect(scores_of(yes=[0.5], no=[0.5]), 0.3, **EACH)) == [(0.1, "no")]  # the first class


def test_unknown_and_silence_are_never_events() -> None:
    assert detect(scores_of(unknown=[1.0] * 9, silence=[1.0] * 9)) == []
    with pytest.raises(UsageError, match="unknown, silence"):
        Detector(["unknown", "silence"], STEP_S, DetectorSettings(0.5))


def test_each_word_may_have_a_threshold_of_its_own() -> None:
    scores = scores_of(yes=pulses(30, (0.1, 0.6)), no=pulses(30, (2.0, 0.6)))
    assert found(detect(scores, {"yes": 0.7, "no": 0.6 - 1e-6}, **EACH)) == [(2.0, "no")]


@pytest.mark.parametrize(
    ("threshold", "named"),
    [({"yes": 0.5}, "none for no"), ({"yes": 0.5, "no": 0.5, "nop": 0.5}, "did you mean no"), (0.0, "0; wanted")],
)
def test_wrong_thresholds_are_refused(threshold: float | dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        detect(scores_of(yes=[0]), threshold)


@pytest.mark.parametrize("wrong", [{"smooth_ms": -1}, {"refractory_ms": float("inf")}, {"smooth_ms": float("nan")}])
def test_wrong_times_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        DetectorSettings(0.5, **wrong)  # type: ignore[arg-type]


def test_times_are_whole_numbers_of_scores() -> None:
    times = DetectorSettings(0.5, smooth_ms=300, refractory_ms=1000)
    assert [times.num_smoothed(step) for step in (0.1, 0.03, 0.02, 0.4, 1.0)] == [3, 10, 15, 1, 1]
    assert [times.num_refractory(step) for step in (0.1, 0.03, 0.02, 0.4, 1.0)] == [10, 34, 50, 3, 1]


def test_presets_name_detection_and_counting_of_the_same_tools() -> None:
    assert set(PRESETS) == set(RULES)


def test_the_documentation_has_the_numbers_of_the_presets() -> None:
    text = (Path(__file__).parents[2] / "docs" / "detection.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("`"): row[1:] for row in rows if row[0].strip("`") in PRESETS}
    for name, preset in PRESETS.items():
        smooth, trigger, refractory, hit, ignored, hours = documented[name]
        assert smooth == (f"{preset.smooth_ms:g} ms" if preset.smooth_ms else "none")
        assert trigger == ("level" if preset.retrigger else "rise")
        assert refractory == (f"{preset.refractory_ms:,g} ms" if preset.refractory_ms else "none")
        assert [hit[:5], ignored[:5]] == [f"{RULES[name].hit_s:.1f} s", f"{RULES[name].ignore_s:.1f} s"]
        assert hours == {"all": "all audio", "outside words": "outside the words"}[RULES[name].hours]


CUTS = st.lists(st.integers(0, 120), max_size=8).map(sorted)
MORE = st.fixed_dictionaries(
    {
        "threshold": st.sampled_from([0.2, 0.35, 0.5, 0.8]), "smooth_ms": st.sampled_from([0, 100, 300, 700]),
        "refractory_ms": st.sampled_from([0, 100, 500, 1000]), "retrigger": st.booleans(),
    }
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), CUTS, MORE)
def test_chunks_change_nothing(seed: int, cuts: list[int], more: dict[str, Any]) -> None:
    scores, detector = random_scores(seed, 120), Detector(CLASSES, STEP_S, DetectorSettings(**more))
    parts = [
        Scores(scores.times[a:b], scores.probabilities[a:b]) for a, b in zip([0, *cuts], [*cuts, 120], strict=True)
    ]
    assert [event for part in parts for event in detector.push(part)] == detect(scores, **more)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), MORE)
def test_silence_before_a_recording_moves_its_events(seed: int, num: int, more: dict[str, Any]) -> None:
    scores = random_scores(seed, 120)
    silence = np.zeros((num, len(CLASSES)), np.float32)
    silence[:, CLASSES.index("silence")] = 1
    later = Scores(STEP_S * np.arange(1, 121 + num), np.concatenate([silence, scores.probabilities]))
    moved = [
        event._replace(time_s=float(later.times[round(event.time_s / STEP_S) + num - 1]))
        for event in detect(scores, **more)
    ]
    assert detect(later, **more) == moved


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9))
def test_the_smoother_is_the_mean(seed: int, num: int) -> None:
    rows = random_scores(seed, 30).probabilities
    padded = np.concatenate([np.zeros((num - 1, rows.shape[1])), rows])
    expected = [padded[row : row + num].mean(axis=0) for row in range(30)]
    np.testing.assert_allclose(Smoother(rows.shape[1], num).push(rows), expected, atol=1e-12)
