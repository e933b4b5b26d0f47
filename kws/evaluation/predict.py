"""Recognises words in audio files, with a trained network as a callable and batches that span files.

files -> [threads decode them ahead of use] -> the clip of each, by the rule of training and evaluation
(kws/data/excerpt.py) -> batches -> network -> words, beside the truth where the folder's name is a word
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from kws import metrics
from kws.audio import codec
from kws.audio.audio_files import DecodedFile, SkippedFile, decode_files, printable
from kws.corpus import tasks
from kws.corpus.recording import to_nfc
from kws.data.excerpt import TOLERANCE
from kws.distributed.arithmetic import full_float32
from kws.errors import UsageError
from kws.evaluation.trained import Trained
from kws.evaluation.waves import batch_of, to_pcm
from kws.results import grid

BATCH = 64
Floats = npt.NDArray[np.float32]
Words = list[tuple[str, float]]
"""Each class with its probability, the most probable first."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction for one file."""

    path: Path
    words: tuple[tuple[str, float], ...]
    """(word, probability) of every class, most probable first."""
    truth: str | None
    """The class that the file's folder names: `unknown` for a word trained as such, None for other folders."""
    start_s: float
    """Where the clip starts in the recording, in seconds."""
    note: str | None
    """Notes: that the recording is longer than a clip, and the remarks of its decoding."""

    @property
    def right(self) -> bool | None:
        """Whether the most probable word is the truth; None where the truth is not known."""
        return None if self.truth is None else self.truth == self.words[0][0]


class _ScoredFile(NamedTuple):
    """A file and the probability of each class, (C,)."""

    file: DecodedFile
    probabilities: Floats


class Recognizer:
    """A trained network as a callable from waveforms to words and probabilities."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.classes = trained.classes

    @classmethod
    def from_run(cls, run: Path, checkpoint: str = "best_accuracy") -> Self:
        """Loads a run's checkpoint, on the GPU if there is one. Raises UsageError where there is no such run or
        checkpoint."""
        return cls(Trained.from_run(run, checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu")))

    def __call__(
        self, waves: npt.ArrayLike | Sequence[npt.ArrayLike], rate: int = codec.SAMPLE_RATE_HZ
    ) -> Words | list[Words]:
        """Returns [(word, probability), ...] of a wave, most probable first; for a batch a list of these.

        A wave is samples (T,), float in [-1, 1] or int16, at `rate` Hz; a batch is (B, T), or a list of B waves of
        different lengths. Of a wave that is longer than a clip the same part is used as in training. Raises UsageError
        for any other kind of array.
        """
        found = [list(self._ranked(row)) for row in self.probabilities(waves, rate)]
        return found[0] if batch_of(waves) is None else found

    def probabilities(self, waves: npt.ArrayLike | Sequence[npt.ArrayLike], rate: int = codec.SAMPLE_RATE_HZ) -> Floats:
        """Waves as for a call -> the probability of each class, (B, C) float32 in the order of `classes`; of one wave
        (1, C)."""
        batch = batch_of(waves)
        single: list[Any] = [waves]
        files = (DecodedFile(Path(), to_pcm(wave, rate)) for wave in (single if batch is None else batch))
        rows = [scored.probabilities for scored in self._score_files(files)]
        return np.stack(rows) if rows else np.zeros((0, len(self.classes)), np.float32)

    def files(self, paths: Iterable[Path], skipped: list[SkippedFile]) -> Iterator[Prediction]:
        """Yields the files' predictions in order; files that cannot be read are appended to `skipped`.

        Of a recording that is longer than a clip the same part is used as in training and evaluation.
        """
        truth_of, excerpt = functools.cache(self._truth_of), self._trained.excerpt  # many files share a folder
        for (path, pcm, remarks), probabilities in self._score_files(_readable(decode_files(paths), skipped)):
            start_s, notes = excerpt.start(pcm) / codec.SAMPLE_RATE_HZ, list(remarks)
            if len(pcm) > excerpt.samples + TOLERANCE:
                notes.insert(0, f"longer than {excerpt.samples / codec.SAMPLE_RATE_HZ:g} s: used from {start_s:.1f} s")
            yield Prediction(
                path, self._ranked(probabilities), truth_of(path.parent), start_s, "; ".join(notes) or None
            )

    def features_of(self, predictions: Sequence[Prediction]) -> list[Floats]:
        """The network's input for each of these predictions, (F, N); reads the files again."""
        files = [item for item in decode_files(item.path for item in predictions) if isinstance(item, DecodedFile)]
        with torch.inference_mode():
            clips = np.stack([self._trained.excerpt.of(file.pcm) for file in files])
            shown = self._trained.features(torch.from_numpy(clips).to(self._trained.device))
        return list(shown[:, 0].cpu().numpy())

    def _truth_of(self, folder: Path) -> str | None:
        name = to_nfc(folder.resolve().name)
        if name in self.classes:
            return name
        return tasks.UNKNOWN if name in self._trained.unknown else None

    def _score_files(self, files: Iterator[DecodedFile]) -> Iterator[_ScoredFile]:
        """The files in order, each with its probabilities."""
        while batch := list(itertools.islice(files, BATCH)):
            wave = np.stack([self._trained.excerpt.of(file.pcm) for file in batch])
            with torch.inference_mode(), full_float32():
                features = self._trained.features(torch.from_numpy(wave).to(self._trained.device))
                rows = self._trained.network(features).float().softmax(dim=1).cpu().numpy()
            yield from map(_ScoredFile, batch, rows)

    def _ranked(self, probabilities: Floats) -> tuple[tuple[str, float], ...]:
        values: list[float] = probabilities.tolist()  # indexing the array one by one took 20 us per file
        return tuple((self.classes[i], values[i]) for i in np.argsort(-probabilities, kind="stable").tolist())


def _readable(files: Iterable[DecodedFile | SkippedFile], skipped: list[SkippedFile]) -> Iterator[DecodedFile]:
    """The files that were decoded; the others are appended to `skipped`."""
    for file in files:
        if isinstance(file, SkippedFile):
            skipped.append(file)
        else:
            yield file


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
