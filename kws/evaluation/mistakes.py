"""The worst mistakes of an evaluation, saved with their sound and features, so that a report can play and show them.

result -> the wrong clips whose true class had the lowest probability -> their sound and features ->
RUN/eval/STEM.mistakes.npz

A report that shows them needs neither the corpus nor torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kws import files
from kws.data.reader import Reader
from kws.evaluation.split_result import SplitResult
from kws.evaluation.trained import Trained

MAX_CLIPS = 24


def worst_mistakes(result: SplitResult, max_clips: int = MAX_CLIPS) -> npt.NDArray[np.int64]:
    """Rows of the wrongly recognised clips, the lowest probability of the true class first, at most `max_clips`."""
    true_probability = _true_probability(result)
    wrong = np.flatnonzero(result.prediction != result.truth)
    return wrong[np.argsort(true_probability[wrong], kind="stable")][:max_clips]


def _true_probability(result: SplitResult) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = result.probabilities[np.arange(len(result.truth)), result.truth]
    return found


def write_mistakes(path: Path, trained: Trained, reader: Reader, result: SplitResult) -> None:
    """Writes arrays of the k worst clips: clips, truth, predicted, probability (of the prediction), likely (the
    probability of the truth), names, wave int16 (k, T), lengths, features float16 (k, F, N)."""
    rows = worst_mistakes(result)
    clips = result.clips[rows]
    wave, lengths = reader.read_rows(clips, trained.excerpt)
    with torch.inference_mode():
        shown = [trained.features(torch.from_numpy(row[None]).to(trained.device))[0, 0].cpu().numpy() for row in wave]
    with files.replaced(path) as partial, partial.open("wb") as out:
        np.savez_compressed(
            out, clips=clips, truth=result.truth[rows], predicted=result.prediction[rows],
            probability=result.probabilities[rows].max(axis=1), wave=wave, lengths=lengths,
            likely=_true_probability(result)[rows], names=np.array([reader.name(clip) for clip in clips.tolist()], str),
            features=np.array(shown, np.float16),
        )  # fmt: skip
