"""The sweep over thresholds against the detector at each of them, and points of a curve by hand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.streaming import curves
from kws.streaming.counting import RULES, CountingRules, Spoken, match, summarise
from kws.streaming.curves import Track, sweep
from kws.streaming.events import PRESETS, Detector, DetectorSettings
from tests.streaming.made_scores import CLASSES, STEP_S, pulses, random_scores, scores_of

EACH = DetectorSettings(0.5, smooth_ms=0)
KWS = RULES["kws"]
WORDS = ("no", "yes")


def random_track(seed: int, num: int = 150) -> Track:
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.uniform(0, num * STEP_S - 1, 6)).round(2)
    spoken = [Spoken(WORDS[n % 2], start, start + float(rng.uniform(0, 1))) for n, start in enumerate(starts.tolist())]
    return Track(random_scores(seed, num, smooth=1 + seed % 5), spoken, num * STEP_S)


MORE = st.fixed_dictionaries(
    {
        "smooth_ms": st.sampled_from([0, 100, 300, 700]), "refractory_ms": st.sampled_from([0, 200, 1000, 2500]),
        "retrigger": st.booleans(),
    }
)  # fmt: skip


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=3), MORE, st.sampled_from(sorted(RULES)))
def test_the_sweep_counts_as_the_detector_does_at_every_threshold(
    seeds: list[int], more: dict[str, Any], preset: str
) -> None:
    check_sweep([random_track(seed) for seed in seeds], DetectorSettings(0.5, **more), RULES[preset], 12)


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_sweep_counts_as_the_detector_does_with_every_preset(preset: str) -> None:
    check_sweep([random_track(seed, 2000) for seed in range(3)], PRESETS[preset], RULES[preset], 40)


def check_sweep(tracks: list[Track], detector: DetectorSettings, rules: CountingRules, places: int) -> None:
    """Compares the sweep with Detector and match at so many of its thresholds."""
    curve = sweep(tracks, CLASSES, STEP_S, detector, rules)
    for place in np.linspace(0, len(curve.thresholds) - 1, places).round().astype(int):
        at = dataclasses.replace(detector, threshold=float(curve.thresholds[place]))
        outcomes = [
            match(Detector(CLASSES, STEP_S, at).push(track.scores), track.spoken, track.duration_s, rules)
            for track in tracks
        ]
        figures = summarise(outcomes, WORDS)
        assert curve.hours == figures["hours"]
        assert curve.figures(int(place))["false_accepts"] == figures["false_accepts"]
        for row, word in enumerate(figures["per_word"]):
            assert curve.hits[row, place] == word["spoken"] - word["missed"]
            assert curve.false_accepts[row, place] == word["false_accepts"]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), MORE)
def test_between_two_thresholds_of_the_sweep_nothing_changes(seed: int, more: dict[str, Any]) -> None:
    track, detector = random_track(seed, 40), DetectorSettings(0.5, **more)
    thresholds = sweep([track], CLASSES, STEP_S, detector, KWS).thresholds
    for low, high in itertools.pairwise(thresholds.tolist()):
        inside, at = (
            Detector(CLASSES, STEP_S, dataclasses.replace(detector, threshold=value)).push(track.scores)
            for value in ((low + high) / 2, high)
        )
        assert inside == at or (low + high) / 2 == low


def test_points_by_hand() -> None:
    # yes at 2 s (0.9) and 8 s (0.6); false accepts of 0.7 at 5 s and 0.3 at 12 s; one minute of audio.
    spoken = [Spoken("yes", 1.8, 2.1), Spoken("yes", 7.8, 8.1)]
    scores = scores_of(yes=pulses(600, (2, 0.9), (8, 0.6), (12, 0.3)), no=pulses(600, (5, 0.7)))
    curve = sweep([Track(scores, spoken, 60.0)], CLASSES, STEP_S, EACH, KWS)
    assert curve.thresholds.tolist() == pytest.approx([0.3, 0.6, 0.7, 0.9])
    assert curve.hits.tolist() == [[0, 0, 0, 0], [2, 2, 1, 1]]
    assert curve.false_accepts.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert [(n, pytest.approx(at), missed) for n, at, missed in curve.staircase()] == [(0, 0.9, 1), (1, 0.6, 0)]
    assert [(n, pytest.approx(at), missed) for n, at, missed in curve.staircase("yes")] == [(0, 0.6, 0)]
    point = curve.point(60.0)  # one false accept a minute
    assert point is not None
    assert (point["threshold"], point["missed"], point["false_accepts"]) == (pytest.approx(0.6), 0, 1)
    assert point["per_hour"] == pytest.approx(60.0)
    assert [row["false_accepts"] for row in point["per_word"]] == [1, 0]


def test_false_accepts_may_grow_with_the_threshold_so_a_point_is_kept_by_all_higher_thresholds() -> None:
    # The mean stays above 0.5 for three seconds, but falls below 0.7 in between.
    held = scores_of(yes=[0.9] * 10 + [0.6] * 10 + [0.9] * 10)
    track = Track(held, [], 3600.0)
    for detector in (EACH, DetectorSettings(0.5, smooth_ms=0, retrigger=True)):
        curve = sweep([track], CLASSES, STEP_S, detector, KWS)
        assert curve.thresholds.tolist() == pytest.approx([0.6, 0.9])
    assert sweep([track], CLASSES, STEP_S, EACH, KWS).false_accepts[1].tolist() == [1, 2]
    curve = sweep([track], CLASSES, STEP_S, EACH, KWS)
    assert curve.point(1.0) is None  # 0.6 gives one, but 0.9 two
    point = curve.point(2.0)
    assert point is not None
    assert (point["threshold"], point["false_accepts"]) == (pytest.approx(0.9), 2)


def test_a_low_threshold_that_joins_two_words_is_not_chosen() -> None:
    spoken = [Spoken("yes", 1.8, 2.1), Spoken("yes", 3.8, 4.1)]
    scores = scores_of(yes=[0.4] * 19 + [0.9] + [0.4] * 19 + [0.8] + [0.4] * 20)
    curve = sweep([Track(scores, spoken, 6.0)], CLASSES, STEP_S, EACH, KWS)
    assert curve.thresholds.tolist() == pytest.approx([0.4, 0.8, 0.9])
    assert curve.false_accepts[1].tolist() == [1, 0, 0]
    assert curve.hits[1].tolist() == [0, 2, 1]
    point = curve.point(1e6)
    assert point is not None
    assert (point["threshold"], point["missed"]) == (pytest.approx(0.8), 0)
    assert [(n, missed) for n, _, missed in curve.staircase()] == [(0, 0)]


def test_a_word_hides_a_false_accept_until_a_threshold_misses_it() -> None:
    spoken = [Spoken("yes", 1.9, 2.1)]
    scores = scores_of(yes=pulses(60, (2.0, 0.6)), no=pulses(60, (2.5, 0.8)))
    curve = sweep([Track(scores, spoken, 6.0)], CLASSES, STEP_S, EACH, KWS)
    assert curve.false_accepts[0].tolist() == [0, 1]
    assert curve.hits[1].tolist() == [1, 0]


def test_a_track_without_a_rise_has_no_threshold() -> None:
    curve = sweep([Track(scores_of(yes=[0.0] * 20), [Spoken("yes", 0.5, 1.0)], 2.0)], CLASSES, STEP_S, EACH, KWS)
    assert (curve.thresholds.size, curve.staircase(), curve.point(10.0)) == (0, [], None)
    assert sweep([], CLASSES, STEP_S, EACH, KWS).hours == 0


def test_events_in_different_recordings_do_not_hold_each_other_back() -> None:
    tracks = [Track(scores_of(yes=[0.9, 0.0]), [], 0.2)] * 5
    curve = sweep(tracks, CLASSES, STEP_S, EACH, KWS)
    assert curve.false_accepts[1].tolist() == [5]


def test_blocks_and_left_out_thresholds_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    track, detector = random_track(3, 400), DetectorSettings(0.5)
    whole = sweep([track], CLASSES, STEP_S, detector, KWS)
    monkeypatch.setattr(curves, "_BLOCK_ROWS", 7)
    monkeypatch.setattr(curves, "MAX_THRESHOLDS", 50)
    part = sweep([track], CLASSES, STEP_S, detector, KWS)
    assert (whole.exact, part.exact, part.thresholds.size) == (True, False, 50)
    places = np.searchsorted(whole.thresholds, part.thresholds)
    assert part.hits.tolist() == whole.hits[:, places].tolist()
    assert part.false_accepts.tolist() == whole.false_accepts[:, places].tolist()
    assert part.thresholds[[0, -1]].tolist() == whole.thresholds[[0, -1]].tolist()


def test_thresholds_with_too_many_rises_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_FEWEST_RISES", 3)
    scores = scores_of(yes=pulses(100, *((second, 0.2 + second / 20) for second in range(1, 9))))
    curve = sweep([Track(scores, [], 10.0)], CLASSES, STEP_S, EACH, KWS)
    assert curve.thresholds.tolist() == pytest.approx([0.5, 0.55, 0.6])
