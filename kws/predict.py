"""Audio files to words: a trained network as a callable, and whole folders at the network's speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kws.audio import codec
from kws.errors import UsageError
from kws.trained import Trained

BATCH = 64


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One file: its most probable words, best first; `truth` where its folder names a known word; `note` if cut."""

    path: Path
    words: tuple[tuple[str, float], ...]
    truth: str | None
    note: str | None


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
            pcm = codec.from_float(floats, rate)
        except codec.AudioError as error:
            raise UsageError(f"wave: {error}") from error
        return list(self._ranked(self._probabilities([fit(pcm, self._trained.samples)[0]])[0]))

    def files(self, paths: Iterable[Path], skipped: list[str]) -> Iterator[Prediction]:
        """The files' predictions in order, in batches; those that cannot be read go to `skipped` with the reason."""
        waiting: list[tuple[Path, codec.Pcm, bool]] = []
        for path in paths:
            try:
                samples, cut = fit(codec.decode(path.read_bytes()), self._trained.samples)
            except (OSError, codec.AudioError) as error:
                skipped.append(f"{path}: {error.strerror if isinstance(error, OSError) else error}")
                continue
            waiting.append((path, samples, cut))
            if len(waiting) == BATCH:
                yield from self._batch(waiting)
                waiting = []
        yield from self._batch(waiting)

    def _batch(self, items: Sequence[tuple[Path, codec.Pcm, bool]]) -> Iterator[Prediction]:
        if not items:
            return
        rows = self._probabilities([samples for _, samples, _ in items])
        for (path, _, cut), row in zip(items, rows, strict=True):
            truth = path.resolve().parent.name
            note = f"longer than {self._trained.config.data.clip_seconds:g} s: its loudest part" if cut else None
            yield Prediction(path, self._ranked(row), truth if truth in self.classes else None, note)

    def _probabilities(self, clips: Sequence[codec.Pcm]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            wave = torch.from_numpy(np.stack(clips)).to(self._trained.device)
            logits = self._trained.network(self._trained.features(wave))
            rows: npt.NDArray[np.float32] = logits.float().softmax(dim=1).cpu().numpy()
        return rows

    def _ranked(self, row: npt.NDArray[np.float32]) -> tuple[tuple[str, float], ...]:
        return tuple((self.classes[i], float(row[i])) for i in np.argsort(-row, kind="stable"))


def fit(pcm: codec.Pcm, samples: int) -> tuple[codec.Pcm, bool]:
    """Pads with zeros behind, or takes the stretch with the most energy; whether it was cut by over a tenth."""
    if len(pcm) <= samples:
        return np.pad(pcm, (0, samples - len(pcm))), False
    energy = np.concatenate([[0.0], np.cumsum(pcm.astype(np.float64) ** 2)])
    start = int(np.argmax(energy[samples:] - energy[:-samples]))
    return pcm[start : start + samples], len(pcm) > 1.1 * samples


def find_audio(paths: Sequence[Path]) -> list[Path]:
    """The files, and all audio below the folders. Raises UsageError for what is not there and folders without audio."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; wanted audio that soundfile reads (wav, flac, ogg, mp3)")
        inside = (
            sorted(p for p in path.rglob("*") if p.is_file() and codec.is_audio(p.name)) if path.is_dir() else [path]
        )
        if not inside:
            raise UsageError(f"{path}: no audio there; wanted {', '.join(sorted(codec.EXTENSIONS))}")
        found += inside
    return found
