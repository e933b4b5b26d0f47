"""Continuous audio from Python: windows of a wave, events of a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kws.errors import UsageError
from kws.streaming import thresholds
from kws.streaming.counting import RULES
from kws.streaming.events import DetectorSettings, Event
from kws.streaming.recognizer import ContinuousRecognizer, EventStream
from kws.streaming.spotting import Spotter
from kws.streaming.thresholds import ThresholdFile
from tests.streaming.learned import WORDS, clips, learned

WAVE = np.concatenate([clips(6, 24_000, seed=9)[0].numpy().ravel(), np.zeros(9_000, np.int16)])
SETTINGS = DetectorSettings(0.6, smooth_ms=200)


@pytest.fixture(scope="module")
def recognizer() -> ContinuousRecognizer:
    return ContinuousRecognizer(learned("tc_resnet8"))


def events(stream: EventStream, wave: np.ndarray, chunk: int) -> list[Event]:
    """All events; probabilities in 5 digits, since batches of windows differ in the last ones."""
    found = [event for at in range(0, len(wave), chunk) for event in stream.push(wave[at : at + chunk])]
    return [event._replace(probability=round(event.probability, 5)) for event in found + stream.finish()]


def test_windows_have_times_words_and_probabilities(recognizer: ContinuousRecognizer) -> None:
    times, words, probabilities = recognizer.windows(WAVE, hop_ms=200)
    assert np.allclose(np.diff(times), 0.2)
    assert times[-1] == pytest.approx(len(WAVE) / 16_000, abs=0.2)
    assert probabilities.shape == (len(times), len(recognizer.classes))
    assert words == [recognizer.classes[place] for place in probabilities.argmax(axis=1)]
    assert set(words) == set(WORDS)
    at = int(np.searchsorted(times, 4.0))
    end = round(times[at] * 16_000)
    given = learned("tc_resnet8")
    with torch.inference_mode():
        row = given.network(given.features(torch.from_numpy(WAVE[None, end - 16_000 : end]))).softmax(dim=1)[0]
    assert probabilities[at] == pytest.approx(row.numpy(), abs=1e-5)


def test_chunks_and_their_kind_change_no_event(recognizer: ContinuousRecognizer) -> None:
    wanted = events(recognizer.stream(settings=SETTINGS), WAVE, len(WAVE))
    assert len(wanted) >= 2
    assert {event.word for event in wanted} <= set(WORDS) - {"silence"}
    assert events(recognizer.stream(settings=SETTINGS), WAVE, 1_234) == wanted
    floats = (WAVE / 32768.0).astype(np.float32)
    assert events(recognizer.stream(settings=SETTINGS), floats, 4_000) == wanted


def test_another_rate_gives_the_same_words(recognizer: ContinuousRecognizer) -> None:
    doubled = np.repeat(WAVE, 2)
    wanted = [event.word for event in events(recognizer.stream(settings=SETTINGS), WAVE, 8_000)]
    found = events(recognizer.stream(rate=32_000, settings=SETTINGS), doubled, 8_000)
    assert [event.word for event in found] == wanted


def test_without_settings_a_stream_uses_the_threshold_that_is_stored_for_this_network(
    recognizer: ContinuousRecognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the run folder of `learned` is relative
    assert recognizer.stream().settings == DetectorSettings(0.5)
    spotter = Spotter(learned("tc_resnet8"))
    chosen = ThresholdFile(
        network=spotter.network, settings={"smooth_ms": 300.0, "refractory_ms": 1000.0}, rules=RULES["kws"],
        words=tuple(spotter.words), recordings={}, hours=1.0, spoken=5, staircase=((0, 0.9, 2), (1, 0.8, 1)),
    )  # fmt: skip
    thresholds.save(tmp_path / "no_run" / thresholds.FILE, chosen)
    assert recognizer.stream().settings == DetectorSettings(0.8)
    assert recognizer.stream(hop_ms=200).settings == DetectorSettings(0.5), "it was chosen for scores every 100 ms"
    assert recognizer.stream(settings=SETTINGS).settings == SETTINGS


def test_mistakes_are_one_line(recognizer: ContinuousRecognizer) -> None:
    with pytest.raises(UsageError, match="wave"):
        recognizer.stream().push(np.zeros((2, 100), np.int16))
    with pytest.raises(UsageError, match="rate"):
        recognizer.stream(rate=3)
    with pytest.raises(UsageError, match="finite"):
        recognizer.stream().push(np.array([np.nan]))
    with pytest.raises(UsageError, match="wave"):
        recognizer.windows(np.zeros(0, np.int16))
