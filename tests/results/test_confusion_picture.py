"""The confusion matrix as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kws.metrics import summarise_confusion
from kws.results.confusion_picture import draw_confusion
from tests.results.made_runs import HOSTILE, png_size, result_of


def test_the_picture_grows_with_the_number_of_classes(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 12):
        draw_confusion(result_of([f"word{n}" for n in range(count)]), tmp_path / "c.png")
        sizes.append(png_size((tmp_path / "c.png").read_bytes()))
    assert all(400 < side < 4000 for size in sizes for side in size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("words", [["only"], ["$x^2", "$\\frac$ {", "a\nb"], [HOSTILE * 9, ""]])
def test_any_word_can_be_drawn(tmp_path: Path, words: list[str]) -> None:
    draw_confusion(result_of(words), tmp_path / "c.png")
    empty = summarise_confusion(np.zeros((len(words), len(words)), dtype=int), words)
    draw_confusion(empty, tmp_path / "c.png")
