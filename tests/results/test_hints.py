"""Hints in the report: each rule with figures on which it applies, and on which it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kws.metrics import confusion_matrix, summarise_confusion
from kws.results.hints import Hint, hints
from kws.results.report import write_report
from tests.results.made_runs import epoch, fill

WORDS = ["four", "forward", "zebra"]


def epochs_of(train: float, *valid: float) -> list[dict[str, Any]]:
    return [epoch(number, 10 * number, value) | {"train_accuracy": train} for number, value in enumerate(valid)]


def evaluation(wrong: dict[tuple[int, int], int], split: str = "test") -> dict[str, Any]:
    """100 clips of each word, some of which were taken for another."""
    truth = np.repeat(np.arange(3), 100)
    predicted = truth.copy()
    for (word, other), count in wrong.items():
        predicted[100 * word : 100 * word + count] = other
    return summarise_confusion(confusion_matrix(truth, predicted, 3), WORDS) | {"split": split, "crop": False}


def figures(found: list[Hint]) -> str:
    return "\n".join(hint.figure for hint in found)


def test_a_run_that_has_no_weakness_gets_no_hint() -> None:
    assert hints({}, [], [], "") == []
    level = epochs_of(0.95, 0.8, 0.93, 0.95, 0.951, 0.95, 0.951)
    clips = dict.fromkeys(WORDS, 1000)
    assert hints({"train_clips": clips}, level, [evaluation({(0, 1): 1})], "[train]\nepochs = 6\n") == []


def test_a_training_accuracy_far_above_the_valid_one_asks_for_augmentation() -> None:
    (hint,) = hints({}, epochs_of(0.99, 0.9), [], "")
    assert "99.0%" in hint.figure
    assert "90.0%" in hint.figure
    assert "augment" in hint.advice
    assert hints({}, epochs_of(0.99, 0.9), [], "[frontend]\nmixup_probability = 0.5\n") == []


@pytest.mark.parametrize(
    ("valid", "advice"),
    [
        ((0.5, 0.6, 0.7, 0.8, 0.85), "train.epochs = 10"),
        ((0.7, 0.9, 0.95, 0.94, 0.93, 0.93), "train.ema"),
        ((0.5, 0.9), ""),
    ],
)
def test_an_accuracy_that_still_rises_or_has_fallen(valid: tuple[float, ...], advice: str) -> None:
    assert advice in "".join(hint.advice for hint in hints({}, epochs_of(valid[-1], *valid), [], "not = [toml"))


def test_a_rare_word_that_is_recognised_badly_is_named_with_its_clips() -> None:
    result = evaluation({(2, 0): 20})
    (hint,) = hints({"train_clips": {"four": 1000, "forward": 1100, "zebra": 300}}, [], [result], "")
    assert "zebra: 300 training clips" in hint.figure
    assert "80.0% of its 100" in hint.figure
    assert hints({"train_clips": {"four": 1000, "forward": 1100, "zebra": 900}}, [], [result], "") == []
    assert hints({"train_clips": {"four": 1000, "forward": 1100, "zebra": 0}}, [], [result], "") == []


def test_confused_words_of_similar_spelling_are_named_of_test_rather_than_valid() -> None:
    found = hints({}, [], [evaluation({}, "valid"), evaluation({(0, 1): 7, (2, 1): 9})], "")
    assert "7 clips of four (7.0%) were taken for forward" in figures(found)
    assert len(found) == 1


def test_the_report_has_the_hints(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "eval").mkdir(parents=True)
    (run / "config.toml").write_text("")
    fill(run, ["four", "forward", "<b>"])
    lines = (run / "metrics.jsonl").read_text().replace('"train_accuracy": 0.5', '"train_accuracy": 0.999')
    (run / "metrics.jsonl").write_text(lines)
    page, _ = write_report(run)
    assert "What usually helps next" in page.read_text()
    assert "training accuracy 99.9%" in page.read_text()
