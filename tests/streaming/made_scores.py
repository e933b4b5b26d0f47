"""Score tracks made by hand, and by chance, for the tests of detection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kws.streaming.scores import Scores

STEP_S = 0.1
CLASSES = ("no", "silence", "unknown", "yes")


def scores_of(first_s: float = STEP_S, step_s: float = STEP_S, **probabilities: Sequence[float]) -> Scores:
    """Scores of CLASSES, a score every `step_s`; classes that are not given have probability 0."""
    num = max(map(len, probabilities.values()))
    rows = np.zeros((num, len(CLASSES)), np.float32)
    for word, values in probabilities.items():
        rows[: len(values), CLASSES.index(word)] = values
    return Scores(first_s + step_s * np.arange(num), rows)


def pulses(num: int, *peaks: tuple[float, float], step_s: float = STEP_S) -> list[float]:
    """Probabilities of one word: 0 but for single scores (time in seconds, probability)."""
    values = [0.0] * num
    for time_s, probability in peaks:
        values[round(time_s / step_s) - 1] = probability
    return values


def random_scores(seed: int, num: int, smooth: int = 3, sharp: float = 6.0) -> Scores:
    """Scores that wander, as a network's do."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num + smooth, len(CLASSES)))
    logits = sharp * sum(logits[shift : num + shift] for shift in range(smooth)) / smooth
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Scores(STEP_S * np.arange(1, num + 1), (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32))
