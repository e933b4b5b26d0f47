"""Labelled recordings with scores made by hand: figures, rows, clips and the files of RUN/spot/NAME."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.errors import UsageError
from kws.results.report import write_report
from kws.streaming import moments, spot_result, thresholds
from kws.streaming.counting import Spoken
from kws.streaming.detection import DetectionOptions, without_stored
from kws.streaming.scores import Scores
from kws.streaming.spot_evaluation import LabelledSet, ScoredRecording, choose_and_evaluate, evaluate
from tests.conftest import tone
from tests.results.made_runs import HOSTILE

WORDS = ["yes", HOSTILE]
SECONDS, STEP_S = 20.0, 0.1
NETWORK = {"name": "net", "checkpoint": HOSTILE, "scorer": "window", "step_ms": 100.0}


def scores(**peaks: list[tuple[float, float]]) -> Scores:
    """A score every 100 ms: 0 but for 300 ms from each (time, probability) of yes and of the other word."""
    times = np.arange(1, round(SECONDS / STEP_S) + 1) * STEP_S
    probabilities = np.zeros((len(times), 2), np.float32)
    for column, name in enumerate(("yes", "other")):
        for at, height in peaks.get(name, []):
            probabilities[(times > at - 0.01) & (times < at + 0.29), column] = height
    return Scores(times, probabilities)


@pytest.fixture
def data(tmp_path: Path) -> LabelledSet:
    """A hit (0.9 at 2.0 s), a miss at 8 s, and two false accepts: 0.95 at 12 s, 0.6 at 16 s."""
    path = tmp_path / "a & <b>.wav"
    path.write_bytes(codec.wav_bytes(tone(300, round(SECONDS * 16_000))))
    made = scores(yes=[(2.0, 0.9), (16.0, 0.6)], other=[(12.0, 0.95)])
    spoken = [Spoken("yes", 1.5, 2.0), Spoken(HOSTILE, 7.5, 8.0)]
    return LabelledSet("valid", WORDS, STEP_S, [ScoredRecording(path, made, spoken, SECONDS, "00" * 32)])


def test_events_are_counted_at_a_given_threshold(data: LabelledSet) -> None:
    found = evaluate(data, without_stored(DetectionOptions(threshold="0.5"), WORDS))
    figures = found.figures()
    assert (figures["spoken"], figures["missed"], figures["false_accepts"]) == (2, 1, 2)
    assert [row["word"] for row in figures["per_word"]] == WORDS
    assert [row["counts_as"] for row in found.rows()] == ["hit", "miss", "false accept", "false accept"]
    assert found.rows()[0]["latency_s"] == pytest.approx(0.1)


def test_a_chosen_threshold_keeps_the_false_accepts_and_is_stored_with_its_recordings(
    data: LabelledSet, tmp_path: Path
) -> None:
    per_hour = 1 / (SECONDS / 3600)
    found = choose_and_evaluate(data, without_stored(DetectionOptions(), WORDS), per_hour, NETWORK)
    assert found.figures()["false_accepts"] == 1
    assert found.chosen is not None
    spot_result.write(tmp_path, found, found.result(NETWORK, []), [])
    stored = thresholds.load(tmp_path / thresholds.FILE)
    assert (stored.per_hour, stored.threshold(per_hour)) == (per_hour, found.detection.settings.threshold)
    assert stored.recordings == {str(data.recordings[0].path): "00" * 32}
    with pytest.raises(UsageError, match="same audio"):
        thresholds.refuse_same_audio(tmp_path, stored, {"copy.flac": "00" * 32})


def test_clips_are_the_sound_around_false_accepts_and_missed_words(data: LabelledSet, tmp_path: Path) -> None:
    found = evaluate(data, without_stored(DetectionOptions(), WORDS))
    chosen = moments.chosen_moments(found, window_s=1.0)
    assert [(moment.kind, moment.word) for moment in chosen] == [
        ("false accept", HOSTILE), ("false accept", "yes"), ("miss", HOSTILE),
    ]  # fmt: skip
    moments.write_clips(tmp_path / "clips", chosen)
    rows = json.loads((tmp_path / "clips" / "clips.json").read_text())
    whole = tone(300, round(SECONDS * 16_000))
    for row, moment in zip(rows, chosen, strict=True):
        pcm = codec.decode((tmp_path / "clips" / row["clip"]).read_bytes())
        assert np.array_equal(pcm, whole[round(moment.start_s * 16_000) : round(moment.end_s * 16_000)])


def test_the_report_shows_the_evaluation_with_clips_and_runs_no_name(data: LabelledSet, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    found = evaluate(data, without_stored(DetectionOptions(), WORDS))
    notes = [f"a note about {HOSTILE}"]
    (tmp_path / "spot" / "valid" / "old").mkdir(parents=True)
    folder = spot_result.write(tmp_path, found, found.result(NETWORK, notes), moments.chosen_moments(found, 1.0))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["valid"]
    assert sorted(path.name for path in folder.iterdir()) == ["clips", "det.png", "events.csv", "result.json"]
    page = write_report(tmp_path)[0].read_text()
    assert "Continuous audio: valid" in page
    assert page.count("data:audio/flac;base64,") == 3
    assert page.count("data:image/png;base64,") == 1
    assert HOSTILE not in page
    assert "50.0 (" in page  # one of two words was missed
    (folder / "clips" / "clips.json").write_text("[1")
    (folder / "result.json").write_text("{")
    assert "Continuous audio" not in write_report(tmp_path)[0].read_text()


@pytest.mark.parametrize("name", ["", ".a", "a/b", "a\n"])
def test_a_name_that_is_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        spot_result.check_name(name)
