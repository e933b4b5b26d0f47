"""The clips that a network got most wrong, kept beside an evaluation so that they can be heard and seen anywhere.

result -> the clips whose true word seemed least likely -> their sound and features -> RUN/eval/STEM.mistakes.npz

A report needs neither the corpus nor torch to show them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kws.data.index import Index
from kws.data.reader import Reader
from kws.data.store import CacheSettings
from kws.evaluation.trained import Trained

Ids = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float32]
MOST = 24


def worst(truth: Ids, probabilities: Probabilities, most: int = MOST) -> Ids:
    """Places of the wrong clips, the least likely truth first, at most `most`; of truth (n,), probabilities (n, C)."""
    likely = probabilities[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    return wrong[np.argsort(likely[wrong], kind="stable")][:most]


def write(
    path: Path, trained: Trained, index: Index, split: str, clips: Ids, truth: Ids, probabilities: Probabilities
) -> None:
    """Arrays over the k worst of the n clips: clips, truth, predicted, probability (of the prediction), likely (of the
    truth), names, wave int16 (k, T), lengths, features float16 (k, F, N)."""
    places = worst(truth, probabilities)
    clips, truth, probabilities = clips[places], truth[places], probabilities[places]
    reader = Reader(index, split, cache_settings=CacheSettings.from_config(trained.config.data))
    wave, lengths = reader.read_rows(clips, trained.samples)
    with torch.inference_mode():
        seen = [trained.features(torch.from_numpy(row[None]).to(trained.device))[0, 0].cpu().numpy() for row in wave]
    partial = path.with_name(f".{path.name}")
    np.savez_compressed(
        partial, clips=clips, truth=truth, predicted=probabilities.argmax(axis=1),
        probability=probabilities.max(axis=1), wave=wave, lengths=lengths,
        likely=probabilities[np.arange(len(clips)), truth], names=np.array(list(map(reader.name, clips.tolist())), str),
        features=np.array(seen, np.float16),
    )  # fmt: skip
    partial.replace(path)
