"""Recognises words in audio files, with a trained network as a callable and batches that span files.

files -> [threads decode them ahead of use] -> segments as long as a clip, every HOP_S -> batches -> network -> for each
file the segment with the highest probability of any word -> words, beside the truth where the folder's name is a word
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from kws import metrics
from kws.audio import codec
from kws.audio.audio_files import DecodedFile, SkippedFile, decode_files, printable
from kws.corpus import tasks
from kws.corpus.recording import to_nfc
from kws.errors import UsageError
from kws.evaluation.trained import Trained
from kws.results import grid

BATCH = 64
HOP_S = 0.1
"""Distance between the segments of a recording that is longer than the network's clips, in seconds."""
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one file."""

    path: Path
    words: tuple[tuple[str, float], ...]
    """(word, probability) of every class, most probable first."""
    truth: str | None
    """The class that the file's folder names: `unknown` for a word trained as such, None for other folders."""
    start_s: float
    """Where the segment with the surest prediction starts, in seconds."""
    note: str | None
    """Says so where the recording is longer than a segment."""

    @property
    def right(self) -> bool | None:
        """Whether the most probable word is the truth; None where the truth is not known."""
        return None if self.truth is None else self.truth == self.words[0][0]


class _Segment(NamedTuple):
    """A part of file number `number`, as long as a clip, from sample `start` on."""

    number: int
    file: DecodedFile
    start: int


_Scored = tuple[_Segment, Floats]
"""A segment and the probability of each class, (C,)."""


class Recognizer:
    """A trained network as a callable from waveform to words and probabilities."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.classes = trained.classes

    @classmethod
    def from_run(cls, run: Path, checkpoint: str = "best_accuracy") -> Recognizer:
        """Loads a run's checkpoint, on the GPU if there is one. Raises UsageError where there is no such run or
        checkpoint."""
        return cls(Trained.from_run(run, checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu")))

    def __call__(self, wave: npt.ArrayLike, rate: int = codec.SAMPLE_RATE_HZ) -> list[tuple[str, float]]:
        """Samples (T,), float in [-1, 1] or int16, at `rate` Hz -> [(word, probability), ...], most probable first.

        Raises UsageError for any other kind of array.
        """
        samples = np.asarray(wave)
        if samples.ndim != 1 or len(samples) == 0:
            raise UsageError(f"wave: shape {samples.shape}, wanted one channel of at least one sample")
        if samples.dtype != np.int16 and samples.dtype.kind != "f":
            raise UsageError(f"wave: samples of type {samples.dtype}, wanted int16, or float in [-1, 1]")
        floats = samples.astype(np.float32) / 32768.0 if samples.dtype == np.int16 else samples.astype(np.float32)
        try:
            pcm = codec.pcm_from_float(floats, rate)
        except codec.AudioError as error:
            raise UsageError(f"wave: {error}") from error
        file = DecodedFile(Path(), pcm)
        segments = (_Segment(0, file, start) for start in segment_starts(len(pcm), self._trained.samples))
        return list(self._ranked(_surest(self._scored(segments))[1]))

    def files(self, paths: Iterable[Path], skipped: list[SkippedFile]) -> Iterator[Prediction]:
        """Yields the files' predictions in order; files that cannot be read are appended to `skipped`.

        A recording longer than the network's clips is cut into segments every HOP_S seconds, and the segment with the
        highest probability of any word is the file's prediction.
        """
        truth_of = functools.cache(self._truth_of)  # many files share a folder
        scored = self._scored(self._segments(paths, skipped))
        for _, of_file in itertools.groupby(scored, lambda pair: pair[0].number):
            best, probabilities = _surest(of_file)
            path, pcm = best.file
            start_s = best.start / codec.SAMPLE_RATE_HZ
            note = None
            if len(pcm) > 1.1 * self._trained.samples:  # a little longer needs no note
                note = f"longer than {self._trained.config.data.clip_seconds:g} s: surest at {start_s:.1f} s"
            yield Prediction(path, self._ranked(probabilities), truth_of(path.parent), start_s, note)

    def features_of(self, predictions: Sequence[Prediction]) -> list[Floats]:
        """The network's input for each of these predictions, (F, N); reads the files again."""
        files = [item for item in decode_files(item.path for item in predictions) if isinstance(item, DecodedFile)]
        starts = [round(item.start_s * codec.SAMPLE_RATE_HZ) for item in predictions]
        with torch.inference_mode():
            clips = [
                _segment_pcm(file.pcm, start, self._trained.samples) for file, start in zip(files, starts, strict=True)
            ]
            shown = self._trained.features(torch.from_numpy(np.stack(clips)).to(self._trained.device))
        return list(shown[:, 0].cpu().numpy())

    def _truth_of(self, folder: Path) -> str | None:
        name = to_nfc(folder.resolve().name)
        if name in self.classes:
            return name
        return tasks.UNKNOWN if name in self._trained.unknown else None

    def _segments(self, paths: Iterable[Path], skipped: list[SkippedFile]) -> Iterator[_Segment]:
        for number, file in enumerate(decode_files(paths)):
            if isinstance(file, SkippedFile):
                skipped.append(file)
            else:
                starts = segment_starts(len(file.pcm), self._trained.samples)
                yield from (_Segment(number, file, start) for start in starts)

    def _scored(self, segments: Iterator[_Segment]) -> Iterator[_Scored]:
        """The segments in order, each with its probabilities; a batch may hold segments of several files."""
        samples, device = self._trained.samples, self._trained.device
        while batch := list(itertools.islice(segments, BATCH)):
            wave = np.stack([_segment_pcm(segment.file.pcm, segment.start, samples) for segment in batch])
            with torch.inference_mode():
                logits = self._trained.network(self._trained.features(torch.from_numpy(wave).to(device)))
                rows = logits.float().softmax(dim=1).cpu().numpy()
            yield from zip(batch, rows, strict=True)

    def _ranked(self, probabilities: Floats) -> tuple[tuple[str, float], ...]:
        values: list[float] = probabilities.tolist()  # indexing the array one by one took 20 us per file
        return tuple((self.classes[i], values[i]) for i in np.argsort(-probabilities, kind="stable").tolist())


def segment_starts(length: int, samples: int) -> list[int]:
    """The first samples of the segments of `samples` samples in a recording of `length` samples: every HOP_S seconds,
    and the last segment possible."""
    last = max(0, length - samples)
    return [*range(0, last, round(HOP_S * codec.SAMPLE_RATE_HZ)), last]


def _segment_pcm(pcm: codec.Pcm, start: int, samples: int) -> codec.Pcm:
    """The samples of a segment, padded with zeros at the end of a shorter recording."""
    part = pcm[start : start + samples]
    return part if len(part) == samples else np.pad(part, (0, samples - len(part)))


def _surest(scored: Iterable[_Scored]) -> _Scored:
    return max(scored, key=lambda pair: float(pair[1].max()))


# --- summary over files ---------------------------------------------------------------------------------------


class PredictionCounts:
    """Counts predictions, and keeps up to `keep` of them for a picture: mistakes first, then the earliest others."""

    def __init__(self, keep: int) -> None:
        self.files = self.known = self.right = 0
        """Files; those whose folder names a known word; those of them that were recognised."""
        self._keep = keep
        self._kept: dict[bool, list[tuple[int, Prediction]]] = {True: [], False: []}

    def add(self, item: Prediction) -> Prediction:
        """Counts one more, and returns it."""
        self.known, self.right = self.known + (item.right is not None), self.right + (item.right is True)
        kept = self._kept[item.right is False]
        if len(kept) < self._keep:
            kept.append((self.files, item))
        self.files += 1
        return item

    def examples(self) -> list[Prediction]:
        """At most `keep` predictions, in the order in which they were added."""
        mistakes = self._kept[True]
        numbered = sorted(mistakes + self._kept[False][: self._keep - len(mistakes)], key=lambda pair: pair[0])
        return [item for _, item in numbered]

    def line(self) -> str:
        """The accuracy on files in folders of known words, with its 95 % confidence interval, as text."""
        low, high = metrics.wilson_interval(self.right, self.known)
        share = f"{self.right / self.known:.2%} (95 %: {low:.2%} to {high:.2%})"
        return f"{self.right} of {self.known} files in folders of known words: {share}"


def draw_grid(recognizer: Recognizer, counts: PredictionCounts, path: Path) -> None:
    """Writes a PNG of the examples' features with truth and prediction. Raises UsageError where there is none."""
    examples = counts.examples()
    if not examples:
        raise UsageError(f"--grid {path}: no file could be read, so there is nothing to draw")
    panels = [
        grid.Panel(item.truth or printable(Path(item.path.stem)), *item.words[0], item.right, features)
        for item, features in zip(examples, recognizer.features_of(examples), strict=True)
    ]
    all_shown = len(examples) == counts.files
    title = "" if all_shown else f"{len(examples)} of {counts.files:,} files, mistakes before others; "
    title += counts.line() if counts.known else "folders name no known word"
    path.write_bytes(grid.grid_png(panels, title))
