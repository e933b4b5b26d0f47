"""`kws spot --truth` from recordings to RUN/spot/NAME: score, count, choose or use a stored threshold, write.

recordings, labels -> scores of each -> LabelledSet -> SpotEvaluation -> folder
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kws.errors import UsageError
from kws.streaming import moments, spot_result, thresholds
from kws.streaming.curves import MAX_THRESHOLDS
from kws.streaming.detection import Detection, DetectionOptions, detection, without_stored
from kws.streaming.recordings import RecordingReader, Recordings
from kws.streaming.spot_evaluation import LabelledSet, ScoredRecording, SpotEvaluation, choose_and_evaluate, evaluate
from kws.streaming.spotting import Spotter, word_scores
from kws.streaming.truth import Truth


@dataclasses.dataclass(frozen=True)
class LabelledSpotting:
    """What is done with labelled recordings. options: with per_hour, the threshold is chosen on these recordings."""

    run: Path
    name: str
    spotter: Spotter
    options: DetectionOptions

    def measure(self, recordings: Recordings, truth: Truth) -> Measured:
        """Reads and counts. Raises UsageError where the threshold was chosen on one of these recordings, where a label
        lies outside its recording, and where nothing could be read."""
        found = self._detection()
        scored = list[ScoredRecording]()

        def use(reader: RecordingReader) -> None:
            scores = word_scores(self.spotter.scores(reader.blocks()), self.spotter.trained.classes)
            if found.stored:
                path = self.run / thresholds.FILE
                thresholds.refuse_same_audio(path, found.stored, {str(reader.path): reader.sha256})
            spoken = truth.spoken(reader.path, reader.seconds)
            scored.append(ScoredRecording(reader.path, scores, spoken, reader.seconds, reader.sha256))

        recordings.read(use)
        if not scored:
            lines = "; ".join(map(str, recordings.left_out[:3]))
            raise UsageError(f"no recording could be read, so there is nothing to count: {lines}")
        data = LabelledSet(self.name, self.spotter.words, self.spotter.step_s, scored)
        per_hour = self.options.per_hour
        if per_hour is None:
            done = evaluate(data, found)
        else:
            done = choose_and_evaluate(data, found, per_hour, self.spotter.network)
        return Measured(done, [*truth.notes, *recordings.notes(), *_notes(recordings, done)])

    def _detection(self) -> Detection:
        if self.options.per_hour is not None:
            return without_stored(self.options, self.spotter.words)
        return detection(self.run, self.options, self.spotter.network, self.spotter.words)

    def write(self, measured: Measured) -> tuple[Path, dict[str, Any]]:
        """Writes RUN/spot/NAME; returns the folder and the contents of its result.json."""
        found = moments.chosen_moments(measured.evaluation, self.spotter.window_s)
        result = measured.evaluation.result(self.spotter.network, measured.notes)
        return spot_result.write(self.run, measured.evaluation, result, found), result


@dataclasses.dataclass(frozen=True)
class Measured:
    """An evaluation, and a line for everything that was left out, assumed or should be known."""

    evaluation: SpotEvaluation
    notes: list[str]


def _notes(recordings: Recordings, done: SpotEvaluation) -> Iterator[str]:
    for skipped in recordings.left_out:
        yield f"left out: {skipped}"
    if done.chosen:
        yield "the threshold was chosen on these recordings, so the figures are too optimistic; report those of others"
    elif not done.detection.stored:
        yield (
            "the thresholds for a number of false accepts an hour were chosen on these recordings, so the figures at "
            "them are too optimistic; choose thresholds on other recordings, with --at"
        )
    if not done.curve.exact:
        yield f"the curve leaves out some thresholds, since there are more than {MAX_THRESHOLDS:,}"
