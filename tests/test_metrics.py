"""kws.metrics against numbers worked out by hand."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from kws.metrics import (
    calibration_error,
    confused_pairs,
    confusion_matrix,
    mcnemar_p,
    poisson_interval,
    summarise_confusion,
    wilson_interval,
)


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Imports scipy.stats, which takes longer than hypothesis lets an example take, in the worker that needs it."""
    importlib.import_module("scipy.stats")


# Rows = truth. "b" is taken for "c" three times; "d" has no clips and is never predicted.
HAND = [[8, 1, 1, 0], [0, 5, 3, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
WORDS = ["a", "b", "c", "d"]


def test_confusion_counts_pairs_with_truth_in_the_rows() -> None:
    counts = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 0], 3)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]


def test_confusion_of_nothing_is_zero() -> None:
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_confusion_does_not_wrap_small_integer_types() -> None:
    index = np.full(3, 34, dtype=np.int8)  # 34 * 35 + 34 does not fit an int8
    assert confusion_matrix(index, index, 35)[34, 34] == 3


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
        confusion_matrix(truth, prediction, 3)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (0, 0, 0, 1)],
)
def test_wilson_known_values(correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_holds_the_share_and_touches_the_ends_exactly() -> None:
    for n in range(1, 60):
        for correct in range(n + 1):
            low, high = wilson_interval(correct, n)
            assert 0 <= low <= correct / n <= high <= 1
    assert wilson_interval(0, 3)[0] == 0
    assert wilson_interval(3, 3)[1] == 1


def test_wilson_refuses_more_correct_than_n() -> None:
    with pytest.raises(ValueError, match="3 correct of 2"):
        wilson_interval(3, 2)


def test_summary_by_hand() -> None:
    result = summarise_confusion(np.array(HAND), WORDS)
    assert result["n"] == 20
    assert result["accuracy"] == 15 / 20
    assert result["interval95"] == list(wilson_interval(15, 20))
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
    result = summarise_confusion(counts, WORDS)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_summary_without_clips_has_no_fractions() -> None:
    result = summarise_confusion([[0, 0], [0, 0]], ["a", "b"])
    assert (result["accuracy"], result["macro_accuracy"], result["interval95"]) == (None, None, [0.0, 1.0])


def test_summary_refuses_a_matrix_of_another_size() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        summarise_confusion(HAND, ["a", "b", "c"])


def test_metrics_and_report_import_no_torch_and_no_drawing() -> None:
    code = "import sys, kws.metrics, kws.results.report; print({'torch', 'matplotlib', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_most_confused_pairs_come_first_and_equal_ones_in_the_order_of_the_classes() -> None:
    pairs = confused_pairs(HAND, WORDS)
    assert [(pair["truth"], pair["predicted"], pair["clips"], pair["share"]) for pair in pairs] == [
        ("b", "c", 3, 3 / 8),
        ("a", "b", 1, 0.1),
        ("a", "c", 1, 0.1),
    ]
    assert confused_pairs(HAND, WORDS, most=1) == pairs[:1] == summarise_confusion(HAND, WORDS)["most_confused"][:1]
    assert confused_pairs(np.diag([3, 0]), ["a", "b"]) == []


def test_calibration_error_by_hand() -> None:
    # One bin at 0.9: half of it right, so 0.4 off; one at 0.3: a third right, 0.0333 off; weights 2/5 and 3/5.
    sure, right = [0.9, 0.9, 0.3, 0.3, 0.3], [True, False, True, False, False]
    assert calibration_error(sure, right) == pytest.approx(0.4 * 2 / 5 + (1 / 3 - 0.3) * 3 / 5)
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([0.0], [True]) == 1
    assert calibration_error([], []) == 0


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    wanted = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar_p(second, first) == mcnemar_p(first, second)


@pytest.mark.parametrize("counts", [(100_000, 101_000), (0, 5000), (499_000, 501_000)])
def test_mcnemar_of_many_clips(counts: tuple[int, int]) -> None:
    wanted = scipy.stats.binomtest(counts[0], sum(counts)).pvalue
    assert mcnemar_p(*counts) == pytest.approx(wanted, rel=1e-6, abs=1e-300)


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(ValueError, match="-1 and 3"):
        mcnemar_p(-1, 3)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Garwood's limits; 0: one-sided, ln 20.
    [(0, 0.0, 2.9957), (1, 0.02532, 5.5716), (2, 0.2422, 7.2247), (10, 4.7954, 18.3904), (100, 81.3640, 121.6271)],
)
def test_poisson_interval_has_the_tabulated_limits(count: int, low: float, high: float) -> None:
    assert poisson_interval(count) == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize("mean", [4.0, 7.5, 30.0])
def test_poisson_interval_covers_the_mean_at_least_as_often_as_it_promises(mean: float) -> None:
    counts = range(100)
    covered = [low <= mean <= high for low, high in map(poisson_interval, counts)]
    assert float(np.sum(scipy.stats.poisson.pmf(counts, mean)[covered])) >= 0.95


def test_poisson_interval_refuses_a_negative_count() -> None:
    with pytest.raises(ValueError, match="-1"):
        poisson_interval(-1)
