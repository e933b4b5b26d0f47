"""Events of recordings with labels, counted: the figures, files and clips in RUN/spot/NAME.

scores of each recording, words spoken -> sweep over all thresholds -> DET curve
threshold (given, stored, or chosen here) -> events -> hits, misses, false accepts -> figures

RUN/spot/NAME/result.json    settings, recordings, figures, curve
              events.csv     every event and every missed word
              det.png        the DET curve
              clips/         false accepts and missed words as FLAC; clips.json lists them
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kws.errors import UsageError
from kws.streaming import event_files
from kws.streaming.counting import CountingRules, Outcome, Spoken, match, summarise
from kws.streaming.curves import RATES, Curve, Track, sweep
from kws.streaming.detection import Detection, at_rate
from kws.streaming.events import Detector, DetectorSettings, Event
from kws.streaming.scores import Scores
from kws.streaming.thresholds import ThresholdFile, choose, thinned

FORMAT = 1


class ScoredRecording(NamedTuple):
    """A recording: the scores of its words (M, W), the words spoken in it, its duration in seconds, and the sha256 of
    its samples."""

    path: Path
    scores: Scores
    spoken: Sequence[Spoken]
    seconds: float
    sha256: str


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """Recordings with labels, and their scores: of these words, every `step_s` seconds."""

    name: str
    words: Sequence[str]
    step_s: float
    recordings: Sequence[ScoredRecording]

    def curve(self, detection: Detection) -> Curve:
        """The counts for all thresholds."""
        tracks = [Track(item.scores, item.spoken, item.seconds) for item in self.recordings]
        return sweep(tracks, self.words, self.step_s, detection.settings, detection.rules)

    def outcomes(self, settings: DetectorSettings, rules: CountingRules) -> list[Outcome]:
        """The counted events of each recording."""
        return [match(self.events(item, settings), item.spoken, item.seconds, rules) for item in self.recordings]

    def events(self, item: ScoredRecording, settings: DetectorSettings) -> list[Event]:
        """The events of a recording, in order of time."""
        return Detector(self.words, self.step_s, settings).push(item.scores)


@dataclasses.dataclass(frozen=True)
class SpotEvaluation:
    """The counted events. outcomes: of each recording. at_rates: figures at RATES. chosen: the thresholds, where they
    were chosen on this set."""

    data: LabelledSet
    detection: Detection
    curve: Curve
    outcomes: Sequence[Outcome]
    at_rates: Sequence[dict[str, Any]]
    chosen: ThresholdFile | None = None

    def figures(self) -> dict[str, Any]:
        """The figures at the threshold, over all words and per word: see counting.summarise."""
        return summarise(self.outcomes, self.data.words)

    def result(self, network: dict[str, Any], notes: Sequence[str]) -> dict[str, Any]:
        """The contents of result.json."""
        detection = self.detection
        return {
            "format": FORMAT,
            "name": self.data.name,
            "network": network,
            "preset": detection.preset,
            "settings": dataclasses.asdict(detection.settings),
            "rules": dataclasses.asdict(detection.rules),
            "threshold": detection.threshold_text,
            "threshold_source": detection.source,
            "recordings": [
                {"file": str(item.path), "seconds": round(item.seconds, 3), "sha256": item.sha256}
                for item in self.data.recordings
            ],
            "figures": self.figures(),
            "at": list(self.at_rates),
            "at_from": "stored" if detection.stored else "curve",
            "curve": {
                "spoken": int(self.curve.spoken.sum()),
                "hours": self.curve.hours,
                "steps": thinned(self.curve.staircase()),
            },
            "notes": list(notes),
        }

    def rows(self) -> list[dict[str, Any]]:
        """A row for each event and each missed word, recording by recording in order of time, for events.csv."""
        rows = list[dict[str, Any]]()
        for item, outcome in zip(self.data.recordings, self.outcomes, strict=True):
            rows += sorted(_rows(item.path, outcome), key=lambda row: float(row["time_s"]))
        return rows

    def write_tracks(self, window_s: float) -> list[Path]:
        """Writes the events of each recording as a label track beside it and returns the paths. Raises as
        event_files.write_track."""
        paths = list[Path]()
        for item in self.data.recordings:
            events = self.data.events(item, self.detection.settings)
            paths.append(event_files.write_track(item.path, events, window_s))
        return paths


def evaluate(data: LabelledSet, detection: Detection) -> SpotEvaluation:
    """Counts the events at the threshold of `detection`."""
    return _evaluation(data, detection, data.curve(detection))


def choose_and_evaluate(
    data: LabelledSet, detection: Detection, per_hour: float, network: dict[str, Any]
) -> SpotEvaluation:
    """Chooses the threshold with at most `per_hour` false accepts an hour on this set, and counts at it.

    network: what the scores depend on. Raises UsageError where no word was spoken, or no threshold gives so few.
    """
    curve = data.curve(detection)
    digests = {str(item.path): item.sha256 for item in data.recordings}
    chosen = dataclasses.replace(
        choose(curve, detection.settings, detection.rules, network, digests), per_hour=per_hour
    )
    source = f"chosen on these recordings with at most {at_rate(per_hour)}"
    found = _evaluation(data, detection.with_threshold(chosen.threshold(per_hour), source), curve)
    return dataclasses.replace(found, chosen=chosen)


def _evaluation(data: LabelledSet, detection: Detection, curve: Curve) -> SpotEvaluation:
    at_rates = [point for rate in RATES if (point := curve.point(rate))]
    if detection.stored:
        at_rates = list(_at_stored(data, detection, detection.stored))
    return SpotEvaluation(data, detection, curve, data.outcomes(detection.settings, detection.rules), at_rates)


def _at_stored(data: LabelledSet, detection: Detection, stored: ThresholdFile) -> Iterator[dict[str, Any]]:
    """The figures on this set at thresholds that were chosen on another."""
    for rate in RATES:
        try:
            settings = dataclasses.replace(detection.settings, threshold=stored.threshold(rate))
        except UsageError:  # no threshold gave so few false accepts there
            continue
        found = summarise(data.outcomes(settings, detection.rules), data.words)
        yield {"wanted_per_hour": rate, "threshold": settings.threshold} | found


COLUMNS = ("file", "time_s", "word", "probability", "counts_as", "start_s", "end_s", "latency_s")


def _rows(path: Path, outcome: Outcome) -> list[dict[str, Any]]:
    def of(event: Event, counts_as: str) -> dict[str, Any]:
        values = (str(path), round(event.time_s, 4), event.word, round(event.probability, 6), counts_as)
        return dict(zip(COLUMNS, values, strict=False))

    hits = [
        of(hit.event, "hit")
        | {"start_s": hit.spoken.start_s, "end_s": hit.spoken.end_s, "latency_s": round(hit.latency_s, 4)}
        for hit in outcome.hits
    ]
    misses = [
        {"file": str(path), "time_s": word.end_s, "word": word.word, "counts_as": "miss"}
        | {"start_s": word.start_s, "end_s": word.end_s}
        for word in outcome.misses
    ]
    false_accepts = [of(event, "false accept") for event in outcome.false_accepts]
    return [*hits, *misses, *false_accepts, *(of(event, "not counted") for event in outcome.not_counted)]
