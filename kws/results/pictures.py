"""The pictures of kws.results.report: a run's curves, and a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from kws.results.canvas import COLOURS, FAINT, INK, LINE, png
from kws.results.formats import accuracy_text, number, split_name
from kws.results.records import Row, rows_of

if TYPE_CHECKING:  # matplotlib takes most of a second to import; only those who draw pay for it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

_TRAIN, _VALID = COLOURS[:2]


def _column(rows: Iterable[Row], key: str) -> Floats:
    """(N,) float64; NaN, which is drawn as a gap, where a row has no number."""
    values = (row.get(key) for row in rows)
    return np.array([v if isinstance(v, int | float) else math.nan for v in values], dtype=np.float64)


def draw_confusion(result: Row, path: Path) -> None:
    """Write a PNG of result["confusion"] (C, C): colour = share of the true word's clips, number = clips.

    result is a metrics.summarise_confusion with an optional "split". The picture grows with the number of classes.
    """
    path.write_bytes(confusion_png(result))


def confusion_png(result: Row) -> bytes:
    """The bytes that draw_confusion writes."""
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
    # The square root lifts the rare errors, which are what the picture is for, off the white.
    image = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    large = max(1.0, side / 11)  # the texts around a large matrix grow with it, for it is looked at from further away
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
    """Two lines: split, accuracy and its interval; number of clips."""
    split = f"{split_name(result)}: " if result.get("split") else ""
    return f"{split}{accuracy_text(result)}\nn = {number(result.get('n'), ',')} clips"


def _label_words(axes: Axes, words: Sequence[str], cell: float) -> None:
    short = [word if len(word) <= 18 else word[:17] + "…" for word in (" ".join(w.split()) for w in words)]
    points = min(10.0, cell * 72 * 0.5)
    wide = max(map(len, short)) * points * 0.6 > cell * 72
    tilt: Row = {"rotation": 90 if len(words) > 16 else 45, "ha": "right", "rotation_mode": "anchor"} if wide else {}
    if wide and len(words) > 16:
        tilt["va"] = "center"
    style: Row = {"fontsize": points, "color": INK, "parse_math": False}  # "$" in a word is a letter
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


def draw_curves(events: Sequence[Row], path: Path) -> None:
    """Write a PNG of loss, accuracy, learning rate, throughput and data wait from the rows of read_events.

    data_wait is read as a fraction of the step's time. Dashed lines mark where a run was resumed. Rows
    without a number leave a gap; with no epoch finished the loss and accuracy are drawn over steps.
    """
    path.write_bytes(curves_png(events))


def curves_png(events: Sequence[Row]) -> bytes:
    """The bytes that draw_curves writes."""
    return png(_curves_figure(events))


def _curves_figure(events: Sequence[Row]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr,call-arg]  # it is "constrained"
    grid = figure.add_gridspec(2, 2)
    right = grid[1, 1].subgridspec(2, 1, height_ratios=[3, 2], hspace=0.12)
    loss, accuracy, rate = (figure.add_subplot(grid[place]) for place in ((0, 0), (0, 1), (1, 0)))
    speed, wait = figure.add_subplot(right[0]), figure.add_subplot(right[1])
    _draw_pair(loss, events, "loss")
    _draw_pair(accuracy, events, "accuracy")
    steps = rows_of(events, "step") or rows_of(events, "epoch")
    at = _column(steps, "step")
    rate.plot(at, _column(steps, "lr"), color=_TRAIN, **_marks(steps))
    _noisy(speed, at, _column(steps, "clips_per_s"), _TRAIN)
    _noisy(wait, at, 100 * _column(steps, "data_wait"), _VALID)
    titles = ("learning rate", "clips per second", "waiting for data, % of the step")
    for axes, title in zip((rate, speed, wait), titles, strict=True):
        _dress(axes, title, _resumes(events))
        axes.set_ylim(0, 1.08 * axes.dataLim.y1 if axes.dataLim.y1 > 0 else 1)
    speed.tick_params(labelbottom=False)
    for axes in (rate, wait):
        axes.set_xlabel("step", color=INK)
    return figure


def _draw_pair(axes: Axes, events: Sequence[Row], what: str) -> None:
    """Train and valid over epochs, with the single steps faint behind them."""
    epochs, steps, place = rows_of(events, "epoch"), rows_of(events, "step"), _epoch_scale(events)
    if steps:
        thick = 0.8 if epochs else 1.6
        axes.plot(place(_column(steps, "step")), _column(steps, what), color=_TRAIN, alpha=0.25, linewidth=thick)
    done, marks = place(_column(epochs, "step")), _marks(epochs)
    axes.plot(done, _column(epochs, f"train_{what}"), color=_TRAIN, label="train (varied clips)", **marks)
    valid, accurate = _column(epochs, f"valid_{what}"), what == "accuracy"
    axes.plot(done, valid, color=_VALID, label=f"valid{_best(valid, accurate)}", **marks)
    resumed = place(_resumes(events))
    _dress(axes, what, resumed)
    _name_resumes(axes, resumed, low=accurate)
    axes.set_xlabel("epochs done" if epochs else "step", color=INK)
    if accurate:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    if epochs:
        axes.legend(frameon=False, labelcolor=INK, loc="lower right" if accurate else "upper right")


def _best(values: Floats, accurate: bool) -> str:
    if not np.isfinite(values).any():
        return ""
    return f", best {number(float(np.nanmax(values)), '.2%') if accurate else number(float(np.nanmin(values)), '.4f')}"


def _epoch_scale(events: Sequence[Row]) -> Callable[[Floats], Floats]:
    """Steps to epochs done. An epoch's length may change when a run resumes on another number of ranks."""
    epochs = rows_of(events, "epoch")
    if not epochs:
        return lambda steps: steps
    first = 1 if epochs[0]["epoch"] == 0 else 0  # whether epochs are counted from 0 or from 1, the axis is the same
    ends = np.array([[0, 0], *([row["step"], row["epoch"] + first] for row in epochs)], dtype=np.float64)
    (before, e0), (last, e1) = ends[-2:]
    slope = (e1 - e0) / max(last - before, 1)
    return lambda steps: np.interp(steps, ends[:, 0], ends[:, 1]) + np.maximum(steps - last, 0) * slope


def _resumes(events: Iterable[Row]) -> Floats:
    return _column((row for row in rows_of(events, "start") if (row.get("attempt") or 1) > 1), "step")


def _marks(rows: Sequence[object]) -> Row:
    """One row alone is a line of no length: draw points while there are few."""
    return {"linewidth": 1.8, "marker": "o" if len(rows) < 12 else None, "markersize": 4}


def _noisy(axes: Axes, x: Floats, y: Floats, colour: str) -> None:
    """A faint line of everything, and over it medians of 50 stretches, which a single slow step does not bend."""
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    many = len(y) >= 150
    marks: Row = _marks(range(len(y))) | {"linewidth": 0.8}
    axes.plot(x, y, color=colour, alpha=0.3 if many else 1.0, **marks)
    if many:
        middles = [[np.median(part) for part in np.array_split(values, 50)] for values in (x, y)]
        axes.plot(*middles, color=colour, linewidth=1.8)


def _dress(axes: Axes, title: str, resumed: Floats) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8bcc2")
    axes.tick_params(colors=INK, length=0, labelsize=9)
    for at in resumed:
        axes.axvline(at, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
    if not axes.has_data() or not np.isfinite(axes.dataLim.get_points()).all():
        axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center", va="center", color=FAINT)
        axes.set(xticks=[], yticks=[])
    else:
        axes.set_xlim(left=0)


def _name_resumes(axes: Axes, resumed: Floats, low: bool) -> None:
    """Names the markers where the curves leave room: below a rising curve, above a falling one."""
    style: Row = {"fontsize": 7.5, "color": "#6b6b6b", "rotation": 90, "ha": "right", "va": "bottom" if low else "top"}
    for at in resumed[:4]:  # a run that was preempted all night has lines enough to be understood
        axes.text(at, 0.02 if low else 0.98, "resumed", transform=axes.get_xaxis_transform(), **style)
