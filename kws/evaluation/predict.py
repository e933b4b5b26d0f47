"""Audio files to words: a trained network as a callable, and whole folders at the network's speed.

files -> [threads decode them, some ahead] -> seconds of each, in batches across files -> network -> the surest second
of each file -> words, beside the truth where its folder is a word
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
STEP_S = 0.1
"""How far apart the seconds lie that a longer recording is heard in."""
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One file: its most probable words, best first; `truth` where its folder names a known word, which may
    be one that is unknown to the task; where in it the
    second begins that the network was surest of; and a note where the recording is longer than that."""

    path: Path
    words: tuple[tuple[str, float], ...]
    truth: str | None
    start_s: float
    note: str | None

    @property
    def right(self) -> bool | None:
        """Whether the truth was recognised; None where it is not known."""
        return None if self.truth is None else self.truth == self.words[0][0]


class _Second(NamedTuple):
    """Of the file with that number what starts at sample `start`."""

    number: int
    file: DecodedFile
    start: int


_Scored = tuple[_Second, Floats]
"""A second, and the probability of each class, (C,)."""


class Recognizer:
    """A trained network as a callable, from waveform to words."""

    def __init__(self, trained: Trained) -> None:
        self._trained = trained
        self.classes = trained.classes

    @classmethod
    def from_run(cls, run: Path, checkpoint: str = "best_accuracy") -> Recognizer:
        """On the GPU where there is one. Raises UsageError where `run` is no run folder or has no such checkpoint."""
        return cls(Trained.from_run(run, checkpoint, torch.device("cuda" if torch.cuda.is_available() else "cpu")))

    def __call__(self, wave: npt.ArrayLike, rate: int = codec.SAMPLE_RATE_HZ) -> list[tuple[str, float]]:
        """Samples (T,), float in [-1, 1] or int16, at `rate` Hz -> [(word, probability), ...], best first."""
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
        seconds = (_Second(0, file, start) for start in starts(len(pcm), self._trained.samples))
        return list(self._ranked(_surest(self._scored(seconds))[1]))

    def files(self, paths: Iterable[Path], skipped: list[SkippedFile]) -> Iterator[Prediction]:
        """The files' predictions in order; those that cannot be read go to `skipped`.

        A recording longer than the network's clips is heard every STEP_S, and the second counts in which the network is
        surest of a word.
        """
        truth_of = functools.cache(self._truth_of)  # many files share a folder
        scored = self._scored(self._seconds(paths, skipped))
        for _, seconds in itertools.groupby(scored, lambda pair: pair[0].number):
            best, row = _surest(seconds)
            path, pcm = best.file
            start_s = best.start / codec.SAMPLE_RATE_HZ
            note = None
            if len(pcm) > 1.1 * self._trained.samples:  # less is not worth a word
                note = f"longer than {self._trained.config.data.clip_seconds:g} s: surest at {start_s:.1f} s"
            yield Prediction(path, self._ranked(row), truth_of(path.parent), start_s, note)

    def features_of(self, predictions: Sequence[Prediction]) -> list[Floats]:
        """What the network was shown of these files, (F, N) each; read again."""
        files = [item for item in decode_files(item.path for item in predictions) if isinstance(item, DecodedFile)]
        begins = [round(item.start_s * codec.SAMPLE_RATE_HZ) for item in predictions]
        with torch.inference_mode():
            clips = [_cut(file.pcm, begin, self._trained.samples) for file, begin in zip(files, begins, strict=True)]
            shown = self._trained.features(torch.from_numpy(np.stack(clips)).to(self._trained.device))
        return list(shown[:, 0].cpu().numpy())

    def _truth_of(self, folder: Path) -> str | None:
        name = to_nfc(folder.resolve().name)
        if name in self.classes:
            return name
        return tasks.UNKNOWN if name in self._trained.unknown else None

    def _seconds(self, paths: Iterable[Path], skipped: list[SkippedFile]) -> Iterator[_Second]:
        for number, file in enumerate(decode_files(paths)):
            if isinstance(file, SkippedFile):
                skipped.append(file)
            else:
                yield from (_Second(number, file, at) for at in starts(len(file.pcm), self._trained.samples))

    def _scored(self, seconds: Iterator[_Second]) -> Iterator[_Scored]:
        """The seconds as they come, with what the network makes of them: in batches that know no files."""
        samples, device = self._trained.samples, self._trained.device
        while batch := list(itertools.islice(seconds, BATCH)):
            wave = np.stack([_cut(second.file.pcm, second.start, samples) for second in batch])
            with torch.inference_mode():
                logits = self._trained.network(self._trained.features(torch.from_numpy(wave).to(device)))
                rows = logits.float().softmax(dim=1).cpu().numpy()
            yield from zip(batch, rows, strict=True)

    def _ranked(self, row: Floats) -> tuple[tuple[str, float], ...]:
        likely: list[float] = row.tolist()  # numbers of numpy's one by one took 20 us a file
        return tuple((self.classes[i], likely[i]) for i in np.argsort(-row, kind="stable").tolist())


def starts(length: int, samples: int) -> list[int]:
    """Where the clips of `samples` samples begin in which a recording of `length` is heard: every STEP_S, and the
    last that there is."""
    last = max(0, length - samples)
    return [*range(0, last, round(STEP_S * codec.SAMPLE_RATE_HZ)), last]


def _cut(pcm: codec.Pcm, start: int, samples: int) -> codec.Pcm:
    """Padded with zeros behind where the recording is shorter."""
    part = pcm[start : start + samples]
    return part if len(part) == samples else np.pad(part, (0, samples - len(part)))


def _surest(scored: Iterable[_Scored]) -> _Scored:
    return max(scored, key=lambda pair: float(pair[1].max()))


# --- what came of it ------------------------------------------------------------------------------------------


class Tally:
    """Counts predictions as they come, and keeps some for a picture: mistakes before others, the first of each."""

    def __init__(self, keep: int) -> None:
        self.files = self.known = self.right = 0
        self._keep = keep
        self._kept: dict[bool, list[tuple[int, Prediction]]] = {True: [], False: []}

    def add(self, item: Prediction) -> Prediction:
        """One more."""
        self.known, self.right = self.known + (item.right is not None), self.right + (item.right is True)
        kept = self._kept[item.right is False]
        if len(kept) < self._keep:
            kept.append((self.files, item))
        self.files += 1
        return item

    def picked(self) -> list[Prediction]:
        """At most `keep`, in the order in which they came."""
        mistakes = self._kept[True]
        numbered = sorted(mistakes + self._kept[False][: self._keep - len(mistakes)], key=lambda pair: pair[0])
        return [item for _, item in numbered]

    def line(self) -> str:
        """How many of those in folders of known words were right, with the 95 % interval."""
        low, high = metrics.wilson_interval(self.right, self.known)
        share = f"{self.right / self.known:.2%} (95 %: {low:.2%} to {high:.2%})"
        return f"{self.right} of {self.known} files in folders of known words: {share}"


def draw_grid(recognizer: Recognizer, tally: Tally, path: Path) -> None:
    """A PNG of what was picked, as the network saw it. Raises UsageError where there is nothing to draw."""
    picked = tally.picked()
    if not picked:
        raise UsageError(f"--grid {path}: no file could be read, so there is nothing to draw")
    seen = recognizer.features_of(picked)
    panels = [
        grid.Panel(item.truth or printable(Path(item.path.stem)), *item.words[0], item.right, features)
        for item, features in zip(picked, seen, strict=True)
    ]
    shown = "" if len(picked) == tally.files else f"{len(picked)} of {tally.files:,} files, mistakes before others; "
    path.write_bytes(grid.grid_png(panels, shown + (tally.line() if tally.known else "folders name no known word")))
