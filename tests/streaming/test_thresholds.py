"""Thresholds are chosen on one set of recordings, kept in a file, and refused for the same audio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kws.errors import UsageError
from kws.streaming import thresholds
from kws.streaming.counting import RULES, Spoken
from kws.streaming.curves import Track, sweep
from kws.streaming.events import DetectorSettings
from kws.streaming.thresholds import AudioDigest, ThresholdFile
from tests.streaming.made_scores import CLASSES, STEP_S, pulses, scores_of

SETTINGS, RULES_ = DetectorSettings(0.5, smooth_ms=0), RULES["kws"]


def digest(*chunks: np.ndarray) -> str:
    audio = AudioDigest()
    for chunk in chunks:
        audio.update(chunk.astype(np.int16))
    return audio.hexdigest()


def made(spoken: bool = True) -> ThresholdFile:
    """yes at 2 s (0.9) and 8 s (0.6); a false accept of 0.7 at 5 s; one minute of audio."""
    words = [Spoken("yes", 1.8, 2.1), Spoken("yes", 7.8, 8.1)] if spoken else []
    scores = scores_of(yes=pulses(600, (2, 0.9), (8, 0.6)), no=pulses(600, (5, 0.7)))
    curve = sweep([Track(scores, words, 60.0)], CLASSES, STEP_S, SETTINGS, RULES_)
    return thresholds.choose(curve, SETTINGS, RULES_, {"form": "window"}, {"valid.flac": digest(np.arange(9))})


def test_a_file_gives_the_threshold_that_the_curve_gave(tmp_path: Path) -> None:
    path = tmp_path / "run" / thresholds.FILE
    thresholds.save(path, made())
    loaded = thresholds.load(path)
    assert loaded == made()
    assert loaded.threshold(60.0) == pytest.approx(0.6)
    assert loaded.threshold(59.0) == pytest.approx(0.9)
    assert DetectorSettings(0.6, **loaded.settings) == DetectorSettings(0.6, smooth_ms=0)


def test_a_rate_that_no_threshold_keeps_is_refused() -> None:
    scores = scores_of(yes=pulses(600, (5, 1.0), (8, 1.0)))
    curve = sweep([Track(scores, [Spoken("yes", 7.8, 8.1)], 60.0)], CLASSES, STEP_S, SETTINGS, RULES_)
    chosen = thresholds.choose(curve, SETTINGS, RULES_, {}, {"valid.flac": ""})
    with pytest.raises(UsageError, match="60 an hour"):
        chosen.threshold(0.5)


def test_recordings_without_a_word_are_no_set_to_choose_on() -> None:
    with pytest.raises(UsageError, match=r"valid\.flac"):
        made(spoken=False)


def test_the_same_audio_is_refused_under_any_name() -> None:
    samples, path = np.arange(9), Path("thresholds.json")
    with pytest.raises(UsageError, match=r"copy\.wav: .* valid\.flac"):
        thresholds.refuse_same_audio(path, made(), {"copy.wav": digest(samples[:4], samples[4:])})
    thresholds.refuse_same_audio(path, made(), {"test.wav": digest(samples + 1)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.pop("staircase"),
        lambda tree: tree.update(format=2),
        lambda tree: tree.update(staircase=[[1, 2]]),
        lambda tree: tree.update(settings={"smooth_ms": -1}),
        lambda tree: tree.update(rules={"hit_s": 3}),
        lambda tree: tree.update(more=1),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "thresholds.json"
    thresholds.save(path, made())
    tree = json.loads(path.read_text())
    damage(tree)  # type: ignore[operator]
    path.write_text(json.dumps(tree))
    with pytest.raises(UsageError):
        thresholds.load(path)


@pytest.mark.parametrize("text", [None, "", "[]", "{"])
def test_a_file_that_is_missing_or_no_json_is_one_line(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "thresholds.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=r"thresholds\.json"):
        thresholds.load(path)


def test_of_many_steps_the_file_has_some_and_its_thresholds_keep_the_wanted_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thresholds, "_MOST_STEPS", 5)
    times = [4.0 * number for number in range(1, 15)]
    false_accepts = [(time_s, 0.9 - time_s / 100) for time_s in times]
    words = [(time_s + 2, 0.895 - time_s / 100) for time_s in times]
    spoken = [Spoken("yes", time_s - 0.2, time_s + 0.1) for time_s, _ in words]
    scores = scores_of(yes=pulses(600, *words), no=pulses(600, *false_accepts))
    curve = sweep([Track(scores, spoken, 60.0)], CLASSES, STEP_S, SETTINGS, RULES_)
    assert [(count, missed) for count, _, missed in curve.staircase()] == [(n, 14 - n) for n in range(1, 15)]
    chosen = thresholds.choose(curve, SETTINGS, RULES_, {}, {"valid.flac": ""})
    assert len(chosen.staircase) == 5
    assert chosen.staircase[0] == curve.staircase()[0]
    assert all(step in curve.staircase() for step in chosen.staircase)
