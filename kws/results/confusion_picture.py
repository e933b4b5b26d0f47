"""A confusion matrix as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kws import files
from kws.results.canvas import INK, png
from kws.results.formats import accuracy_text, number, split_name
from kws.results.records import Row

if TYPE_CHECKING:  # matplotlib takes most of a second to import, so functions that draw import it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]


def draw_confusion(result: Row, path: Path) -> None:
    """Writes a PNG of result["confusion"] (C, C): colours are shares of the true word's clips, numbers are clips.

    `result` is an evaluation's summary (metrics.summarise_confusion), with or without "split". The size of the picture
    grows with the number of classes.
    """
    files.write_bytes(path, confusion_png(result))


def confusion_png(result: Row) -> bytes:
    """The PNG that draw_confusion writes."""
    return png(_confusion_figure(result))


def _confusion_figure(result: Row) -> Figure:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.asarray(result["confusion"], dtype=np.int64)
    size, support = len(counts), counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(support, 1)
    side = min(max(4.0, 2.0 + 0.34 * size), 26.0)
    figure = Figure(figsize=(side + 1.9, side + 1.3), layout="constrained")
    axes = figure.add_subplot()
    # The square root makes rare errors visible, which are the purpose of the picture.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    large = max(1.0, side / 11)  # texts grow with the matrix, which is shown smaller
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02, shrink=0.6, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0", "5 %", "20 %", "50 %", "100 %"], fontsize=8 * large, color=INK)
    bar.set_label("share of the true word's clips", fontsize=8.5 * large, color=INK)
    bar.outline.set_visible(False)
    _label_words(axes, [str(word) for word in result["classes"]], cell=side / size)
    _write_counts(axes, counts, share, cell=side / size)
    axes.set_xlabel("predicted word", fontsize=10 * large, color=INK, labelpad=8)
    axes.set_ylabel("true word", fontsize=10 * large, color=INK, labelpad=8)
    axes.set_title(confusion_title(result), fontsize=11.5 * large, color=INK, pad=10, loc="left", parse_math=False)
    return figure


def confusion_title(result: Row) -> str:
    """Two lines: the split and its accuracy with interval; the number of clips."""
    split = f"{split_name(result)}: " if result.get("split") else ""
    return f"{split}{accuracy_text(result)}\nn = {number(result.get('n'), ',')} clips"


def _label_words(axes: Axes, words: Sequence[str], cell: float) -> None:
    short = [word if len(word) <= 18 else word[:17] + "…" for word in (" ".join(w.split()) for w in words)]
    points = min(10.0, cell * 72 * 0.5)
    wide = max(map(len, short)) * points * 0.6 > cell * 72
    tilt: Row = {"rotation": 90 if len(words) > 16 else 45, "ha": "right", "rotation_mode": "anchor"} if wide else {}
    if wide and len(words) > 16:
        tilt["va"] = "center"
    style: Row = {"fontsize": points, "color": INK, "parse_math": False}  # "$" in a word is not maths
    axes.set_xticks(range(len(words)), short, **style, **tilt)
    axes.set_yticks(range(len(words)), short, **style)
    axes.set_xticks(np.arange(len(words) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(words) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#e3e6ea", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_color("#c8ccd2")


def _write_counts(axes: Axes, counts: npt.NDArray[np.int64], share: Floats, cell: float) -> None:
    digits = len(str(counts.max(initial=0)))
    points = min(12.0, cell * 72 * 0.4, cell * 72 * 0.85 / (0.62 * digits))
    for row, column in np.argwhere(counts):
        ink = "white" if share[row, column] > 0.4 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=points, color=ink)
