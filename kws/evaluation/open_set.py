"""The open-set figure: the share of sounds without a wanted word that a network takes for one.

    foreign words, noise, negatives (kws/data/other_sounds.py), faint noise -> the highest probability of a word
    -> for each threshold: the share of each kind at or above it, beside the share of the words that are below it

A detector reports a word where its probability reaches the threshold, whichever class is the most probable; so only
the probabilities of words count here, not those of the classes unknown and silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kws import counter_rng, metrics
from kws.corpus.tasks import SILENCE, UNKNOWN
from kws.data.index import Index
from kws.data.other_sounds import OtherSounds, choose_other_sounds
from kws.distributed.arithmetic import full_float32
from kws.evaluation.split_result import SplitResult
from kws.evaluation.trained import Trained

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
FAINT_NOISE = "faint noise"
_FAINT_CLIPS, _FAINT_DB = 256, (-90.0, -50.0)
"""Clips of white noise, and the range of their RMS in dB of full scale: from the last of 16 bits to a quiet room."""
Scores = npt.NDArray[np.float32]


def word_labels(classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """The labels of the classes that are words: neither unknown nor silence."""
    return np.array([label for label, name in enumerate(classes) if name not in (UNKNOWN, SILENCE)], np.int64)


def summarise(scores: dict[str, Scores], available: dict[str, int], missed: Scores) -> dict[str, Any]:
    """The entry `open_set` of eval/SPLIT.json.

    scores: of each kind of sound, the highest probability of a word, (n,). missed: of each clip of a word, the
    probability of this word, (n,).
    """
    sources = [
        {"sound": kind, "n": len(found), "of": available.get(kind, len(found)), **_shares("taken", found, True)}
        for kind, found in scores.items()
    ]
    words = {"n": len(missed), **_shares("missed", missed, False)}
    return {"thresholds": list(THRESHOLDS), "sounds": sources, "words": words}


def _shares(name: str, scores: Scores, reached: bool) -> dict[str, Any]:
    """Under `name` the share of the scores at or above each threshold (reached), or below it, with 95 % intervals."""
    counts = [int(((scores >= threshold) == reached).sum()) for threshold in THRESHOLDS]
    return {
        name: [count / len(scores) if len(scores) else None for count in counts],
        "interval95": [list(metrics.wilson_interval(count, len(scores))) for count in counts],
    }


def faint_noise(samples: int) -> npt.NDArray[np.int16]:
    """White noise of levels between those of _FAINT_DB, after one clip of digital silence: (clips + 1, samples)."""
    rng = counter_rng.generator("open set", FAINT_NOISE)
    gains = 32768.0 * 10.0 ** (np.linspace(*_FAINT_DB, _FAINT_CLIPS) / 20.0)
    waves = np.rint(rng.standard_normal((_FAINT_CLIPS, samples), dtype=np.float32) * gains[:, None])
    return np.concatenate([np.zeros((1, samples)), waves]).clip(-32768, 32767).astype(np.int16)


def probabilities_of(trained: Trained, waves: npt.NDArray[np.int16], batch: int = 64) -> Scores:
    """Clips (B, T) -> the probability of each class, (B, C); `batch` of them at a time."""
    parts = []
    with torch.inference_mode(), full_float32():
        for first in range(0, len(waves), batch):
            wave = torch.from_numpy(waves[first : first + batch]).to(trained.device)
            parts.append(torch.softmax(trained.network(trained.features(wave)).float(), dim=1).cpu().numpy())
    return np.concatenate(parts)


def measure(
    trained: Trained, index: Index, split: str, result: SplitResult, evaluate: Callable[[OtherSounds], SplitResult]
) -> dict[str, Any]:
    """The entry `open_set` of eval/SPLIT.json, for the packed corpus `index`. result: of the split's own clips.
    evaluate: returns the result of other sounds; all ranks call it together."""
    labels, scores, available = word_labels(trained.classes), dict[str, Scores](), dict[str, int]()
    sounds = choose_other_sounds(index, split, trained.classes, trained.samples)
    if sounds:
        found, available = evaluate(sounds), sounds.available
        kinds = np.array(sounds.kinds)[sounds.index.split(split).values("word", found.clips).astype(np.int64)]
        scores = {kind: found.probabilities[kinds == kind][:, labels].max(axis=1) for kind in available}
    probabilities = probabilities_of(trained, faint_noise(trained.samples))
    scores[FAINT_NOISE] = probabilities[1:, labels].max(axis=1)
    own = np.isin(result.truth, labels)
    best = int(labels[probabilities[0, labels].argmax()])
    silence = {"word": trained.classes[best], "probability": float(probabilities[0, best])}
    return {**summarise(scores, available, result.probabilities[own, result.truth[own]]), "digital_silence": silence}
