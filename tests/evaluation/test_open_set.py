"""The open-set figure: which sounds are measured, and how shares are counted."""

from __future__ import annotations

import numpy as np
import pytest

from kws import metrics
from kws.data.index import Index
from kws.data.other_sounds import FOREIGN, MOST_CLIPS, NOISE, choose_other_sounds
from kws.evaluation import open_set
from kws.evaluation.evaluate import selected_clips

SAMPLES = 1600


def test_shares_are_counted_at_and_above_the_threshold() -> None:
    scores = np.array([0.5, 0.49, 0.9, 1.0], np.float32)
    found = open_set.summarise({"noise": scores}, {"noise": 7}, np.array([0.95, 0.3], np.float32))
    assert found["thresholds"][0] == 0.5
    (noise,) = found["sounds"]
    assert (noise["n"], noise["of"]) == (4, 7)
    assert noise["taken"][0] == 0.75
    assert noise["interval95"][0] == list(metrics.wilson_interval(3, 4))
    assert noise["taken"] == sorted(noise["taken"], reverse=True)
    assert found["words"]["missed"][0] == 0.5
    assert found["words"]["missed"][-1] == 1.0


def test_unknown_and_silence_are_no_words() -> None:
    assert open_set.word_labels(["unknown", "silence", "yes", "no"]).tolist() == [2, 3]


def test_a_split_gives_its_foreign_words_and_windows_of_its_noise(noisy: Index) -> None:
    found = choose_other_sounds(noisy, "test", ["unknown", "low", "silence"], SAMPLES)
    assert found is not None
    clips = selected_clips(found.index, "test", found.task)
    words = found.index.split("test").values("word", clips).astype(int)
    kinds = [found.kinds[word] for word in words]
    foreign = noisy.split("test").cells.sum(axis=0)[[word != "low" for word in noisy.words]].sum()
    assert kinds.count(FOREIGN) == foreign == found.available[FOREIGN]
    assert kinds.count(NOISE) == min(MOST_CLIPS, found.available[NOISE]) > 0


def test_a_corpus_of_wanted_words_without_noise_has_no_other_sounds(tones: Index) -> None:
    found = choose_other_sounds(tones, "valid", list(tones.words), 10 * 16000)
    assert found is None


def test_no_more_than_the_most_clips_are_taken(noisy: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kws.data.other_sounds.MOST_CLIPS", 3)
    found = choose_other_sounds(noisy, "train", ["low", "mid"], SAMPLES)
    assert found is not None
    assert len(selected_clips(found.index, "train", found.task)) == 6
    assert found.available[FOREIGN] > 3


def test_faint_noise_begins_with_digital_silence_and_grows_louder() -> None:
    waves = open_set.faint_noise(SAMPLES).astype(np.float64)
    assert not waves[0].any()
    levels = waves[1:].std(axis=1)
    assert levels[0] < 2.0 < 50.0 < levels[-1] < 150.0
