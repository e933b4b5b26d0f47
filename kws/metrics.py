"""Classification metrics, free of torch: confusion matrix, Wilson and Poisson intervals, per-class scores, calibration
error, McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FEW_CLIPS = 100


def confusion_matrix(truth: npt.ArrayLike, prediction: npt.ArrayLike, num_classes: int) -> npt.NDArray[np.int64]:
    """Counts each (true class, predicted class) pair.

    truth and prediction are (N,) whole numbers in 0 .. num_classes-1. Returns int64 (C, C): row = truth, column =
    prediction. Raises ValueError for unequal lengths or a number out of range.
    """
    rows, columns = _indices(truth, "truth", num_classes), _indices(prediction, "prediction", num_classes)
    if rows.shape != columns.shape:
        raise ValueError(f"confusion_matrix: {rows.size} truths and {columns.size} predictions; wanted equal numbers")
    flat = np.bincount(rows * num_classes + columns, minlength=num_classes * num_classes)
    return flat.astype(np.int64).reshape(num_classes, num_classes)


def _indices(values: npt.ArrayLike, name: str, num_classes: int) -> npt.NDArray[np.int64]:
    """Checks class numbers and returns them as int64 (N,)."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"confusion_matrix: {name} is {array.dtype}; wanted whole numbers")
    array = array.astype(np.int64)
    if array.ndim != 1:
        raise ValueError(f"confusion_matrix: {name} has shape {array.shape}; wanted (N,)")
    # A number out of range would otherwise be counted silently in a neighbouring row.
    if array.size and (array.min() < 0 or array.max() >= num_classes):
        raise ValueError(f"confusion_matrix: {name} spans {array.min()}..{array.max()}; wanted 0..{num_classes - 1}")
    return array


def wilson_interval(correct: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Returns the Wilson score interval (low, high) of the fraction correct / n; the default z gives 95 %.

    Both ends are fractions in 0..1; n = 0 gives (0, 1). Raises ValueError unless 0 <= correct <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"wilson_interval: {correct} correct of {n}; wanted 0 <= correct <= n")
    if n == 0:
        return 0.0, 1.0
    share, spread = correct / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # With 0 or n correct one end is exactly 0 or 1, which rounding can miss by 1e-17.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the exact interval (low, high) of the mean of a Poisson variable that was observed as `count`.

    Garwood, Biometrika 28, 1936. Divided by the hours of observation it is the interval of a rate. Nothing observed
    gives (0, 3.0): the one-sided limit, at most 3 in the time of observation. Raises ValueError for a count below 0.
    """
    from scipy.special import gammaincinv  # type: ignore[import-untyped]

    if count < 0:
        raise ValueError(f"poisson_interval: count {count}; wanted 0 or more")
    if count == 0:
        return 0.0, -math.log(1 - confidence)
    outside = (1 - confidence) / 2
    return float(gammaincinv(count, outside)), float(gammaincinv(count + 1, 1 - outside))


def few_clips_notes(sizes: Mapping[str, int]) -> list[str]:
    """Returns a line about those of valid and test that have too few clips to separate a good network from a bad one.

    Below FEW_CLIPS the 95 % interval of an accuracy of 95 % is wider than 9 points. Empty splits are not meant.
    """
    few = {split: n for split in ("valid", "test") if 0 < (n := sizes.get(split, 0)) < FEW_CLIPS}
    if not few:
        return []
    means = [f"{split} has {n} clips: {_accuracy_meant(n)}" for split, n in few.items()]
    return [f"few clips prove little; {'; '.join(means)} (95 % interval); wanted {FEW_CLIPS} clips or more"]


def _accuracy_meant(n: int) -> str:
    """What about 95 % right of n clips would mean."""
    right = round(0.95 * n)
    low, high = wilson_interval(right, n)
    return f"{right} right would mean an accuracy of {low:.0%} to {high:.0%}"


def summarise_confusion(confusion: npt.ArrayLike, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the scores of one confusion matrix as plain Python types: the entries of eval/SPLIT.json.

    confusion is (C, C), rows = truth; classes names the C words in order. Fractions are in 0..1. An undefined fraction,
    such as the recall of a class without clips, is None, never NaN. macro_accuracy is the mean recall of the classes
    that have clips. Raises ValueError when the shape is not (C, C).
    """
    counts = np.asarray(confusion).astype(np.int64)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"summarise_confusion: matrix {counts.shape} for {len(classes)} classes; wanted (C, C) with that C"
        )
    n, correct = int(counts.sum()), int(np.trace(counts))
    per_class = [_class_row(counts, index, classes) for index in range(len(classes))]
    recalls = [row["recall"] for row in per_class if row["recall"] is not None]
    return {
        "accuracy": _ratio(correct, n),
        "n": n,
        "interval95": list(wilson_interval(correct, n)),
        "macro_accuracy": math.fsum(recalls) / len(recalls) if recalls else None,
        "confusion": counts.tolist(),
        "classes": [str(word) for word in classes],
        "per_class": per_class,
        "most_confused": confused_pairs(counts, classes),
    }


def confused_pairs(confusion: npt.ArrayLike, classes: Sequence[str], most: int = 10) -> list[dict[str, Any]]:
    """Returns the `most` frequent pairs (true word, other predicted word), most frequent first.

    Each has the number of its clips and their fraction of the true word's clips. Equally frequent pairs come in the
    order of the classes.
    """
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
    """Returns the expected calibration error (Guo et al. 2017, arXiv 1706.04599), a fraction; 0 without clips.

    It is |mean confidence - accuracy| of each of `bins` equal intervals of confidence, averaged over the clips.
    confidence: probability of the predicted class, (N,) in 0..1; right: whether it is the true class, (N,) of bools.
    """
    sure, hits = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    bin_numbers = np.minimum((sure * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_numbers, weights=sure - hits, minlength=bins)  # clips of a bin x (confidence - accuracy)
    return float(np.abs(gaps).sum() / max(1, len(sure)))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Returns the two-sided p-value of McNemar's test of two networks evaluated on the same clips.

    only_first, only_second: numbers of clips that only the first, only the second network got right. The test is the
    exact binomial one at any counts; the usual chi-square approximation would save only microseconds. Raises ValueError
    for counts below 0.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"mcnemar_p: counts {only_first} and {only_second}; wanted 0 or more")
    n, fewer = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    # Binomial terms from `fewer` down to 0, each divided by the first one: only the first needs logarithms.
    k = np.arange(fewer, 0, -1, dtype=np.float64)
    terms = 1.0 + float(np.cumprod(k / (n - k + 1.0)).sum())
    first = math.lgamma(n + 1) - math.lgamma(fewer + 1) - math.lgamma(n - fewer + 1) - n * math.log(2.0)
    return min(1.0, 2.0 * math.exp(first) * terms)


def difference_of_means(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[float, float, float]:
    """Returns the mean accuracy of `first` minus that of `second`, and the ends of its 95 % interval.

    first, second: whether run r recognised clip i, bools (R, N) and (S, N): two or more runs each that differ in their
    seed, on the same N clips. The interval is for new seeds and new clips. Its variance is that of the mean over the
    clips of the paired difference, plus the variance between the seeds of each side; what a seed and a clip contribute
    together is in both, so the interval is rather too wide. Degrees of freedom: Satterthwaite, Biometrics Bulletin 2,
    1946; Welch, Biometrika 34, 1947. Raises ValueError for fewer runs or other shapes.
    """
    from scipy.special import stdtrit

    one, other = (np.asarray(side, np.float64) for side in (first, second))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(*one.shape, *other.shape) < 2:
        raise ValueError(
            f"difference_of_means: {one.shape} and {other.shape}; wanted (R, N) and (S, N), 2 or more each"
        )
    by_clip = one.mean(axis=0) - other.mean(axis=0)
    samples = [by_clip, one.mean(axis=1), other.mean(axis=1)]
    variances = [float(np.var(sample, ddof=1)) / len(sample) for sample in samples]
    total, value = math.fsum(variances), float(by_clip.mean())
    if total == 0.0:
        return value, value, value
    freedom = total**2 / math.fsum(part**2 / (len(sample) - 1) for part, sample in zip(variances, samples, strict=True))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(total)
    return value, value - half, value + half


def _class_row(counts: npt.NDArray[np.int64], index: int, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the scores of one class."""
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
