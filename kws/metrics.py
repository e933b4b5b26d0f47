"""Counting right and wrong answers: confusion matrix, Wilson interval, per-class table, calibration, McNemar's test
(numpy only)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def confusion(truth: npt.ArrayLike, prediction: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.int64]:
    """Count each (true class, predicted class) pair.

    truth and prediction are (N,) whole numbers in 0 .. num_classes-1.
    Returns int64 (C, C): row = truth, column = prediction. Sums of such matrices over ranks are valid too.
    Raises ValueError for unequal lengths or a number out of range.
    """
    rows, columns = _indices(truth, "truth", num_classes), _indices(prediction, "prediction", num_classes)
    if rows.shape != columns.shape:
        raise ValueError(f"confusion: {rows.size} truths and {columns.size} predictions; wanted as many of each")
    flat = np.bincount(rows * num_classes + columns, minlength=num_classes * num_classes)
    return flat.astype(np.int64).reshape(num_classes, num_classes)


def _indices(values: npt.ArrayLike, name: str, num_classes: int) -> npt.NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"confusion: {name} is {array.dtype}; wanted whole numbers")
    array = array.astype(np.int64)
    if array.ndim != 1:
        raise ValueError(f"confusion: {name} has shape {array.shape}; wanted (N,)")
    # A number out of range would otherwise be counted silently in a neighbouring row.
    if array.size and (array.min() < 0 or array.max() >= num_classes):
        raise ValueError(f"confusion: {name} spans {array.min()}..{array.max()}; wanted 0..{num_classes - 1}")
    return array


def wilson(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share of `correct` out of `n`; the default z gives 95 %.

    Returns (low, high), both fractions in 0..1; n = 0 gives (0, 1). Raises ValueError unless 0 <= correct <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"wilson: {correct} correct of {n}; wanted 0 <= correct <= n")
    if n == 0:
        return 0.0, 1.0
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At the ends the bound is exactly 0 or 1; rounding can miss it by 1e-17 on either side.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def summary(confusion: npt.ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Everything a report says about one confusion matrix, as plain Python types for json.dump.

    confusion is (C, C), rows = truth; classes names the C words in order. Fractions are in 0..1; what is
    undefined (a recall without clips, an accuracy of nothing) is None and never NaN. macro_accuracy is the
    mean recall of the classes that have clips. Raises ValueError when the shape is not (C, C).
    """
    counts = np.asarray(confusion).astype(np.int64)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"summary: matrix {counts.shape} for {len(classes)} classes; wanted a square of that size")
    n, correct = int(counts.sum()), int(np.trace(counts))
    per_class = [_class_row(counts, index, classes) for index in range(len(classes))]
    recalls = [row["recall"] for row in per_class if row["recall"] is not None]
    return {
        "accuracy": _ratio(correct, n),
        "n": n,
        "interval95": list(wilson(correct, n)),
        "macro_accuracy": math.fsum(recalls) / len(recalls) if recalls else None,
        "confusion": counts.tolist(),
        "classes": [str(word) for word in classes],
        "per_class": per_class,
        "most_confused": confused_pairs(counts, classes),
    }


def confused_pairs(confusion: npt.ArrayLike, classes: Sequence[str], most: int = 10) -> list[dict[str, Any]]:
    """The `most` frequent (truth, predicted) pairs of unlike words, with their clips and their share of the true word's
    clips; of equally frequent ones those first that come first among the classes."""
    counts = np.asarray(confusion).astype(np.int64)
    support = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    return [
        {"truth": str(classes[row]), "predicted": str(classes[column]), "clips": int(wrong[row, column]),
         "share": float(wrong[row, column] / support[row])}
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]  # fmt: skip


def calibration_error(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): how far the probability of the predicted class is
    from the share of right answers, mean over clips, in `bins` equal stretches of probability.

    confidence (N,) in 0..1, right (N,) of bools; 0 is perfect, and of no clips.
    """
    sure, hits = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    place = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=sure - hits, minlength=bins)  # clips of a bin x (confidence - accuracy)
    return float(np.abs(gaps).sum() / max(1, len(sure)))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's test of two networks on the same clips, from the clips that only one of them got right: the probability
    of counts at least as unequal if both were equally good (two-sided).

    Exact (binomial) whatever the counts: the usual chi-square with continuity correction approximates it to save a sum
    that takes microseconds. Raises ValueError for counts below 0.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"mcnemar: counts {only_first} and {only_second}; wanted 0 or more")
    n, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    # Binomial terms from `fewer` down to 0, as shares of the first, which alone needs logarithms.
    k = np.arange(fewer, 0, -1, dtype=np.float64)
    terms = 1.0 + float(np.cumprod(k / (n - k + 1.0)).sum())
    first = math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2.0)
    return min(1.0, 2.0 * math.exp(first) * terms)


def _class_row(counts: npt.NDArray[np.int64], index: int, classes: Sequence[str]) -> dict[str, Any]:
    hits, support, predicted = int(counts[index, index]), int(counts[index].sum()), int(counts[:, index].sum())
    errors = counts[index].copy()
    errors[index] = 0
    worst = int(errors.argmax())
    return {
        "word": str(classes[index]),
        "support": support,
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, support + predicted),
        "most_confused_with": str(classes[worst]) if errors[worst] > 0 else None,
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
