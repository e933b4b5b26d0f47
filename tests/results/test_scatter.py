"""The picture of accuracy against parameters."""

from __future__ import annotations

import warnings

import pytest

from kws.results.scatter import Dot, scatter_png
from tests.results.made_runs import HOSTILE, png_size


def dots(count: int, groups: int = 1) -> list[Dot]:
    return [
        Dot(f"net{n}", f"group {n % groups}", 10_000 * (n % 3 + 1), 0.9 + n / 1000, (0.85, 0.95)) for n in range(count)
    ]


@pytest.mark.parametrize(
    "found",
    [[], dots(1), dots(2, 2), pytest.param(dots(25, 3), marks=pytest.mark.slow)],
    ids=["none", "one", "two", "crowded"],
)
def test_any_number_of_networks_can_be_drawn(found: list[Dot]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        width, height = png_size(scatter_png(found))
    assert 900 < width < 2000
    assert 600 < height < 1200


@pytest.mark.parametrize("name", ["$x^2", HOSTILE, "", "n" * 300])
def test_any_name_can_be_drawn(name: str) -> None:
    assert png_size(scatter_png([Dot(name, "test", 1000, 0.5, (0.4, 0.6))]))


def test_an_interval_that_excludes_its_accuracy_by_rounding_is_drawn() -> None:
    assert png_size(scatter_png([Dot("all right", "g", 1000, 1.0, (0.9, 0.9999999))]))
