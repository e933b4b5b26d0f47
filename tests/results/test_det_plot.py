"""The picture of missed words against false accepts an hour."""

from __future__ import annotations

import warnings

import pytest

from kws.results.det_plot import DetCurve, det_png
from tests.results.made_runs import HOSTILE, png_size

STEPS = [(0, 40), (1, 25), (3, 12), (20, 5), (90, 1)]


@pytest.mark.parametrize(
    "curves",
    [
        pytest.param([], marks=pytest.mark.slow),
        pytest.param([DetCurve("window", STEPS, 100, 1.0)], marks=pytest.mark.slow),
        pytest.param(
            [DetCurve("window", STEPS, 100, 100.0), DetCurve("stream", [(5, 0)], 10, 0.01)], marks=pytest.mark.slow
        ),
        [DetCurve("four words, none missed", [(0, 0)], 4, 0.03)],
        [DetCurve(HOSTILE, [], 0, 0.0), DetCurve("$x^2", STEPS, 40, 1.0), DetCurve("n" * 300, [(0, 0)], 9, 1.0)],
    ],
    ids=["none", "one", "two", "few words", "strange"],
)
def test_any_curves_can_be_drawn(curves: list[DetCurve]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        width, height = png_size(det_png(curves, "missed words at $10 an hour"))
    assert 900 < width < 2000
    assert 600 < height < 1200


def test_the_missed_words_at_a_number_of_false_accepts_an_hour() -> None:
    curve = DetCurve("window", STEPS, 100, 2.0)
    assert [curve.missed_at(rate) for rate in (0.1, 0.5, 1.0, 1.5, 10.0, 1000.0)] == [40, 25, 25, 12, 5, 1]
    assert DetCurve("never quiet", [(5, 1)], 10, 1.0).missed_at(1.0) is None
