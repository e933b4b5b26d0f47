"""What usually helps next, from a run's own figures.

run.json, epoch events, evaluations -> rules, each of which gives a hint with the figure that it stands on, or nothing
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from difflib import SequenceMatcher
from statistics import median
from typing import NamedTuple

from kws.results.formats import split_name
from kws.results.records import Row

OVERFITTING, STILL_RISING, PEAKED = 0.02, 0.004, 0.003
"""Fractions of clips: by how much the training accuracy is above the valid one, the valid accuracy rose over the last
fifth of the epochs, or fell after its best epoch, before it is worth a hint."""
FEW = 0.5
"""A class has few clips below this fraction of the median class."""
CONFUSED, ALIKE = 0.03, 0.5
"""Fraction of a word's clips taken for one other word, and how alike their spelling is (difflib's ratio)."""
MOST = 3
"""Hints of one kind."""


class Hint(NamedTuple):
    """figure: what was measured. advice: what usually helps."""

    figure: str
    advice: str


def hints(run: Row, epochs: Sequence[Row], results: Sequence[Row], config: str) -> list[Hint]:
    """Hints for a run. run: run.json; epochs: its epoch events; results: its evaluations; config: its config.toml."""
    settings = _parsed(config)
    evaluated = [row for row in epochs if row.get("valid_accuracy") is not None]
    final = next((result for split in ("test", "valid") for result in results if result["split"] == split), None)
    found = [_training(evaluated, settings), _length(evaluated)]
    per_class = (_few_clips(final, run) + _confusions(final)) if final else []
    return [hint for hint in found if hint] + per_class


def _accuracy(row: Row) -> float:
    return float(max(row["valid_accuracy"], row.get("ema_valid_accuracy") or 0.0))


def _training(epochs: Sequence[Row], settings: Row) -> Hint | None:
    """Training accuracy against valid accuracy, at the last evaluated epoch."""
    if not epochs or epochs[-1].get("train_accuracy") is None or _setting(settings, "frontend", "mixup_probability"):
        return None  # mixed clips have two words, so their accuracy means something else
    train, valid = float(epochs[-1]["train_accuracy"]), _accuracy(epochs[-1])
    if train - valid < OVERFITTING:
        return None
    return Hint(
        f"training accuracy {train:.1%}, valid accuracy {valid:.1%}",
        "the network has learned its training clips: stronger augmentation (frontend.augment = modern, "
        "frontend.mixup_probability = 0.5), more speakers, or a higher train.weight_decay",
    )


def _length(epochs: Sequence[Row]) -> Hint | None:
    """Whether the valid accuracy still rose at the end, or fell long before it."""
    if len(epochs) < 5:
        return None
    values = [_accuracy(row) for row in epochs]
    fifth = max(1, len(values) // 5)
    rise = max(values[-fifth:]) - max(values[:-fifth])
    total = epochs[-1]["epoch"] + 1
    if rise > STILL_RISING:
        return Hint(
            f"valid accuracy rose by {100 * rise:.1f} points over the last {fifth} of {len(values)} evaluations",
            f"train longer: train.epochs = {2 * total} in a new run (the learning rate falls over the whole length)",
        )
    best = max(range(len(values)), key=values.__getitem__)
    if best < len(values) * 0.6 and values[best] - values[-1] > PEAKED:
        return Hint(
            f"valid accuracy was best after epoch {epochs[best]['epoch'] + 1} of {total} ({values[best]:.2%}), "
            f"{values[-1]:.2%} at the end",
            "a lower train.lr, train.ema = 0.999, or fewer train.epochs; kws evaluate uses the best checkpoint",
        )
    return None


def _few_clips(result: Row, run: Row) -> list[Hint]:
    """Classes with few training clips that are recognised worse than the others."""
    # Silence is generated, from no clips.
    clips = {word: count for word, count in (run.get("train_clips") or {}).items() if count}
    middle = median(clips.values()) if clips else 0
    rows = [row for row in result["per_class"] if row["recall"] is not None]
    few = [row for row in rows if row["word"] in clips and clips[row["word"]] < FEW * middle]
    worse = sorted((row for row in few if row["recall"] < result["accuracy"] - 0.01), key=lambda row: row["recall"])
    return [
        Hint(
            f"{row['word']}: {clips[row['word']]:,} training clips (median of the classes: {middle:,.0f}); "
            f"{row['recall']:.1%} of its {row['support']} clips recognised in {split_name(result)}, of all "
            f"{result['accuracy']:.1%}",
            f"record more {row['word']}, best by new speakers; data.sampling = balanced gives rare words equal shares",
        )
        for row in worse[:MOST]
    ]


def _confusions(result: Row) -> list[Hint]:
    """Pairs of similar words that are confused."""
    alike = [
        pair
        for pair in result.get("most_confused", ())
        if pair["share"] >= CONFUSED and SequenceMatcher(None, pair["truth"], pair["predicted"]).ratio() >= ALIKE
    ]
    return [
        Hint(
            f"{split_name(result)}: {pair['clips']} clips of {pair['truth']} ({pair['share']:.1%}) were taken for "
            f"{pair['predicted']}",
            "the words are alike: more clips of both by the same speakers, or for a detector another word",
        )
        for pair in alike[:MOST]
    ]


def _parsed(config: str) -> Row:
    try:
        return tomllib.loads(config)
    except tomllib.TOMLDecodeError:  # the report is written for runs in any state
        return {}


def _setting(settings: Row, section: str, name: str) -> object:
    return settings.get(section, {}).get(name)
