"""Accuracy against number of parameters: networks as dots with intervals and names, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kws.results.canvas import COLOURS, GRID, INK, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_OFFSETS = [(x * far, y * far) for far in (8, 16, 28, 44) for x, y in ((1, 0.5), (1, -1), (-1, 0.5), (-1, -1))]
"""Possible positions of a name, in points from its dot; the first free one is used."""


@dataclass(frozen=True)
class Dot:
    """One network: number of parameters, accuracy and interval (fractions), and the group, which sets its colour."""

    name: str
    group: str
    size: int
    accuracy: float
    interval: tuple[float, float]


def scatter_png(dots: Sequence[Dot]) -> bytes:
    """A PNG of accuracy in percent against parameters (log scale), with error bars; one colour per group."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    axes = figure.add_subplot()
    groups = list(dict.fromkeys(dot.group for dot in dots))
    for place, group in enumerate(groups):
        _draw_group(axes, [dot for dot in dots if dot.group == group], COLOURS[place % len(COLOURS)], group)
    axes.set_xscale("log")
    if dots:
        axes.set_xlim(min(dot.size for dot in dots) / 2, max(dot.size for dot in dots) * 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(y=0.12)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_xlabel("parameters", color=INK)
    axes.set_ylabel("accuracy %, with its 95 % interval", color=INK)
    if dots:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    _draw_names(figure, axes, dots)
    return png(figure)


def _draw_group(axes: Axes, dots: Sequence[Dot], colour: str, name: str) -> None:
    values = [100 * dot.accuracy for dot in dots]
    errors = [
        [max(0.0, 100 * (dot.accuracy - dot.interval[0])) for dot in dots],
        [max(0.0, 100 * (dot.interval[1] - dot.accuracy)) for dot in dots],
    ]
    style: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 6, "elinewidth": 1.2, "capsize": 3}
    axes.errorbar([dot.size for dot in dots], values, yerr=errors, label=name, **style)


def _draw_names(figure: Figure, axes: Axes, dots: Sequence[Dot]) -> None:
    """Draws each name at the first position where it covers no other name and no dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw(renderer)  # positions are known only after the layout
    centres = [axes.transData.transform((dot.size, 100 * dot.accuracy)) for dot in dots]
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in centres]
    for dot in dots:
        texts = [_draw_name(axes, dot, place) for place in _OFFSETS]
        boxes = [text.get_window_extent(renderer) for text in texts]
        best = min(range(len(texts)), key=lambda number: (_overlaps(boxes[number], taken), number))
        taken.append(boxes[best])
        for number, text in enumerate(texts):
            if number != best:
                text.remove()


def _draw_name(axes: Axes, dot: Dot, place: tuple[float, float]) -> Annotation:
    return axes.annotate(
        dot.name if len(dot.name) <= 40 else dot.name[:39] + "…", (dot.size, 100 * dot.accuracy), place,
        textcoords="offset points", ha="left" if place[0] > 0 else "right", va="center", fontsize=8.5, color=INK,
        parse_math=False, annotation_clip=False,
    )  # fmt: skip


def _overlaps(box: Bbox, taken: Sequence[Bbox]) -> int:
    return sum(box.overlaps(other) for other in taken)


def _short(count: float) -> str:
    """1,200,000 -> "1.2 M"."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:g}{name}"
    return f"{count:g}"
