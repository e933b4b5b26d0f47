"""kws.metrics against numbers worked out by hand."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kws.metrics import confusion, summary, wilson

# Rows = truth. "b" is taken for "c" three times; "d" has no clips and is never predicted.
HAND = [[8, 1, 1, 0], [0, 5, 3, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
WORDS = ["a", "b", "c", "d"]


def test_confusion_counts_pairs_with_truth_in_the_rows() -> None:
    counts = confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 0], 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]


def test_confusion_of_nothing_is_zero() -> None:
    assert confusion([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_confusion_does_not_wrap_small_integer_types() -> None:
    index = np.full(3, 34, dtype=np.int8)  # 34 * 35 + 34 does not fit an int8
    assert confusion(index, index, 35)[34, 34] == 3


@pytest.mark.parametrize(
    ("truth", "prediction", "words"),
    [
        ([0, 1], [0], "2 truths and 1 predictions"),
        ([0, 3], [0, 0], "truth spans 0..3"),
        ([0, 0], [0, -1], "prediction spans -1..0"),
        ([0.0], [0], "truth is float64"),
        ([[0]], [[0]], "shape"),
    ],
)
def test_confusion_refuses_what_it_would_miscount(truth: list[int], prediction: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        confusion(truth, prediction, 3)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (0, 0, 0, 1)],
)
def test_wilson_known_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_holds_the_share_and_touches_the_ends_exactly() -> None:
    for n in range(1, 60):
        for correct in range(n + 1):
            low, high = wilson(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
    assert wilson(0, 3)[0] == 0
    assert wilson(3, 3)[1] == 1


def test_wilson_refuses_more_right_than_asked() -> None:
    with pytest.raises(ValueError, match="3 correct of 2"):
        wilson(3, 2)


def test_summary_by_hand() -> None:
    result = summary(np.array(HAND), WORDS)
    assert result["n"] == 20
    assert result["accuracy"] == 15 / 20
    assert result["interval95"] == list(wilson(15, 20))
    assert result["macro_accuracy"] == pytest.approx((8 / 10 + 5 / 8 + 2 / 2) / 3)  # "d" has no clips: left out
    assert result["confusion"] == HAND
    a, b, c, d = result["per_class"]
    assert a == {
        "word": "a",
        "support": 10,
        "precision": 1.0,
        "recall": 0.8,
        "f1": pytest.approx(16 / 18),
        "most_confused_with": "b",
    }
    assert (b["precision"], b["recall"], b["most_confused_with"]) == (5 / 6, 5 / 8, "c")
    assert (c["precision"], c["recall"], c["most_confused_with"]) == (2 / 6, 1.0, None)
    assert d == {
        "word": "d",
        "support": 0,
        "precision": None,
        "recall": None,
        "f1": None,
        "most_confused_with": None,
    }


@pytest.mark.parametrize("counts", [HAND, [[0] * 4] * 4])
def test_summary_is_strict_json(counts: list[list[int]]) -> None:
    result = summary(counts, WORDS)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_summary_of_nothing_leaves_the_shares_open() -> None:
    result = summary([[0, 0], [0, 0]], ["a", "b"])
    assert (result["accuracy"], result["macro_accuracy"], result["interval95"]) == (None, None, [0.0, 1.0])


def test_summary_refuses_a_matrix_of_another_size() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        summary(HAND, ["a", "b", "c"])


def test_neither_module_loads_torch_nor_draws_at_import() -> None:
    code = "import sys, kws.metrics, kws.report; print({'torch', 'matplotlib', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
