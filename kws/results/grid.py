"""Recordings in a grid: the features of each, with the truth above and the prediction below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from kws.results.canvas import COLOURS, FAINT, INK, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 120
"""More would be unreadable on one picture."""
_COLUMNS = 10
_RIGHT, _WRONG = COLOURS[:2]


class Panel(NamedTuple):
    """One recording."""

    name: str
    """The true word, or a name where it is not known."""
    word: str
    """The predicted word."""
    probability: float
    right: bool | None
    """Whether the prediction is the truth; None where the truth is not known."""
    features: npt.NDArray[np.float32]
    """(F, N)"""


def grid_png(panels: Sequence[Panel], title: str) -> bytes:
    """A PNG of up to MAX_PANELS panels, row by row, under a title."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, max(3, math.ceil(math.sqrt(1.4 * len(panels)))))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1.15 * columns, 1.5 * rows + 0.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=9.5, color=INK, parse_math=False)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, panel in zip(axes, panels, strict=False):
        _draw_panel(place, panel)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    return png(figure)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    low, high = np.quantile(panel.features, (0.02, 0.999))
    axes.imshow(panel.features, origin="lower", aspect="auto", cmap="Greys", vmin=low, vmax=high)
    axes.set(xticks=[], yticks=[])
    colour, mark = {None: (FAINT, ""), True: (_RIGHT, "✓ "), False: (_WRONG, "✗ ")}[panel.right]
    axes.set_title(_short(panel.name), fontsize=8, color=INK, pad=3, parse_math=False)
    label = f"{mark}{_short(panel.word)}\n{panel.probability:.0%}"
    weight = "bold" if panel.right is False else "normal"
    axes.set_xlabel(label, fontsize=8, color=INK if panel.right is None else colour, weight=weight, labelpad=2)
    axes.xaxis.label.set_parse_math(False)
    axes.spines[:].set(color=colour, linewidth=2.0 if panel.right is False else 1.0)


def _short(name: str) -> str:
    return name if len(name) <= 13 else name[:12] + "…"
