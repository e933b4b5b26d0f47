"""The grid of predictions as a PNG."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from kws.results.grid import Panel, grid_png
from tests.results.made_runs import HOSTILE, png_size


def panels(count: int, name: str = "yes") -> list[Panel]:
    image = np.random.default_rng(0).random((32, 32), dtype=np.float32)
    return [Panel(name, "no", 0.5, (None, True, False)[number % 3], image) for number in range(count)]


@pytest.mark.parametrize(
    "count", [1, 12, pytest.param(35, marks=pytest.mark.slow), pytest.param(120, marks=pytest.mark.slow)]
)
def test_a_grid_grows_with_its_panels_and_stays_a_picture(count: int) -> None:
    width, height = png_size(grid_png(panels(count), "24 of 35"))
    assert 300 < width < 2000
    assert 200 < height < 3200
    assert (width, height) > png_size(grid_png(panels(1), "24 of 35")) or count == 1


@pytest.mark.parametrize("name", ["$x^2", "语音", HOSTILE, "", "\\frac{"])
def test_any_name_can_be_drawn(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert png_size(grid_png(panels(3, name), name))


def test_silence_can_be_drawn() -> None:
    assert png_size(grid_png([Panel("a", "b", 1.0, True, np.zeros((40, 101), np.float32))], "one"))
