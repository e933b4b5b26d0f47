"""A trained network for continuous audio, from Python: scores of every window of a wave, and events of a stream.

recognizer = kws.load("runs/mine")
recognizer(wave, rate)                          # a wave or a batch: kws/evaluation/predict.py
recognizer.windows(wave, rate)                  # times (M,), words (M,), probabilities (M, C)
stream = recognizer.stream(settings=DetectorSettings(0.8))  # stream.push(chunk), stream.finish(): events
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kws.audio.codec import SAMPLE_RATE_HZ, AudioError, Pcm
from kws.audio.resampler import Resampler
from kws.errors import UsageError
from kws.evaluation.predict import Floats, Recognizer
from kws.evaluation.waves import to_floats, to_pcm
from kws.streaming.detection import DetectionOptions, detection
from kws.streaming.events import Detector, DetectorSettings, Event
from kws.streaming.scorers import HOP_MS, Form, make_scorer
from kws.streaming.scores import Scorer, joined
from kws.streaming.spotting import Spotter


class Windows(NamedTuple):
    """The scores of M windows of a recording.

    times (M,) float64: the end of each window, in seconds from the start of the recording. words (M,): the most
    probable class of each. probabilities (M, C) float32: of every class, in the order of `Recognizer.classes`.
    """

    times: npt.NDArray[np.float64]
    words: list[str]
    probabilities: Floats


class EventStream:
    """Events of a recording whose samples come in chunks of any size; the events do not depend on the chunks.

    settings: threshold, smoothing and refractory time of the detector.
    """

    def __init__(self, scorer: Scorer, settings: DetectorSettings, rate: int) -> None:
        self.settings = settings
        self._scorer, self._detector = scorer, Detector(scorer.classes, scorer.step_s, settings)
        try:
            self._resampler = Resampler(rate)
        except AudioError as error:
            raise UsageError(f"rate: {error}") from error
        self._is_plain = rate == SAMPLE_RATE_HZ

    def push(self, chunk: npt.ArrayLike) -> list[Event]:
        """The events that these samples complete: (n,) int16, or float in [-1, 1]. Event: time_s, word, probability.

        Raises UsageError for any other kind of array.
        """
        return self._events_of(self._pcm(chunk))

    def finish(self) -> list[Event]:
        """The events at the end of the recording. The stream cannot be used after it."""
        events = self._events_of(self._resampler.finish())
        return events + self._detector.push(self._scorer.finish())

    def _events_of(self, pcm: Pcm) -> list[Event]:
        return self._detector.push(self._scorer.push(pcm))

    def _pcm(self, chunk: npt.ArrayLike) -> Pcm:
        samples = np.asarray(chunk)
        if self._is_plain and samples.dtype == np.int16 and samples.ndim == 1:
            return samples
        try:
            return self._resampler.push(to_floats(samples))
        except AudioError as error:
            raise UsageError(f"wave: {error}") from error


class ContinuousRecognizer(Recognizer):
    """What `kws.load` returns: a Recognizer that also takes recordings of any length and streams."""

    def windows(self, wave: npt.ArrayLike, rate: int = SAMPLE_RATE_HZ, hop_ms: float = HOP_MS) -> Windows:
        """The scores of the last window (as long as a clip) every `hop_ms`: wave (T,), float in [-1, 1] or int16.

        Before the wave there is digital silence. Raises UsageError for any other kind of array.
        """
        scorer = make_scorer(self._trained, "window", hop_ms)
        scores = joined([scorer.push(to_pcm(wave, rate)), scorer.finish()])
        words = [self.classes[place] for place in scores.probabilities.argmax(axis=1).tolist()]
        return Windows(scores.times, words, scores.probabilities)

    def stream(
        self,
        rate: int = SAMPLE_RATE_HZ,
        settings: DetectorSettings | None = None,
        scorer: Form = "auto",
        hop_ms: float = HOP_MS,
    ) -> EventStream:
        """A detector for one recording whose samples at `rate` Hz come in chunks.

        settings: by default those of `kws spot`: the threshold that `kws spot --truth --at` stored for this network
        and this scorer, else 0.5; smoothing of 300 ms and a refractory time of 1,000. scorer: `window` (every
        `hop_ms`), `stream` (networks that stream), or `auto`: stream where the network can. Raises UsageError where the
        rate is not one of audio, or the file of thresholds is damaged.
        """
        spotter = Spotter(self._trained, scorer, hop_ms)
        if settings is None:
            run = self._trained.checkpoint.path.parent.parent
            settings = detection(run, DetectionOptions(), spotter.network, spotter.words).settings
        return EventStream(spotter.new_scorer(), settings, rate)
