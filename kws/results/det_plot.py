"""Missed share against false accepts an hour (a DET curve), of one or several detectors, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kws.metrics import wilson_interval
from kws.results.canvas import COLOURS, FAINT, GRID, INK, png

if TYPE_CHECKING:  # matplotlib takes most of a second to import, so functions that draw import it
    from matplotlib.axes import Axes

_MARKED = (0.1, 0.5, 1.0, 10.0)
"""False accepts an hour at which the missed share is marked, with its interval."""
_LEFT = 1e-6
"""False accepts an hour left of the picture, plotted in place of 0."""
_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class DetCurve:
    """One detector. steps: (false accepts, missed words) of its thresholds, in rising order of false accepts. spoken:
    number of words in the recordings; hours: their length."""

    name: str
    steps: Sequence[tuple[int, int]]
    spoken: int
    hours: float

    def missed_at(self, per_hour: float) -> int | None:
        """The number of missed words at the lowest threshold with at most `per_hour` false accepts an hour; None where
        every threshold has more."""
        fits = [missed for count, missed in self.steps if count <= per_hour * self.hours + 1e-9]
        return fits[-1] if fits else None


def det_png(curves: Sequence[DetCurve], title: str = "") -> bytes:
    """The PNG. False accepts on a logarithmic scale, on which no false accept at all is the left edge.

    A mark has the 95 % interval of the missed share. Left of the dotted line there is less than one false accept in all
    the audio: more hours of audio would be needed to measure that.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    shown = [curve for curve in curves if curve.steps and curve.spoken and curve.hours]
    longest = max((curve.hours for curve in shown), default=1.0)
    for place, curve in enumerate(shown):
        aside = 1.03 ** (place - (len(shown) - 1) / 2)  # marks of several curves beside each other
        _draw(axes, curve, (COLOURS[place % len(COLOURS)], _STYLES[place // len(COLOURS) % len(_STYLES)]), aside)
    axes.set_xscale("log")
    most = max(20.0, 20 / longest)
    axes.set_xlim(min(0.05, 0.4 / longest), most)
    axes.set_ylim(0, _top(shown, most))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.axvline(1 / longest, color=FAINT, linewidth=1, linestyle=":")
    axes.annotate(
        f"1 false accept in {longest:.3g} h", (1 / longest, 0), (3, 4), xycoords=("data", "axes fraction"),
        textcoords="offset points", va="bottom", fontsize=8, color=FAINT,
    )  # fmt: skip
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_xlabel("false accepts an hour", color=INK)
    axes.set_ylabel("missed words, %", color=INK)
    if title:
        axes.set_title(title, fontsize=11, color=INK, loc="left", parse_math=False)
    if shown:
        legend = axes.legend(
            frameon=False, fontsize=8.5, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return png(figure)


def _draw(axes: Axes, curve: DetCurve, colour_and_style: tuple[str, str], aside: float) -> None:
    """The staircase: from a number of false accepts on, up to the next, the missed share stays."""
    colour, style = colour_and_style
    rates = [max(count / curve.hours, _LEFT) for count, _ in curve.steps]
    shares = [100 * missed / curve.spoken for _, missed in curve.steps]
    name = curve.name if len(curve.name) <= 50 else curve.name[:49] + "…"
    label = f"{name or 'detector'}: {curve.spoken:,} words, {curve.hours:.3g} h"
    # The lowest threshold's figures hold for every larger number of false accepts.
    axes.step([*rates, max(1e6, rates[-1])], [*shares, shares[-1]], where="post", color=colour, linestyle=style,
              linewidth=1.6, label=label)  # fmt: skip
    for rate in _MARKED:
        missed = curve.missed_at(rate)
        if missed is not None:
            share = 100 * missed / curve.spoken
            low, high = (100 * end for end in wilson_interval(missed, curve.spoken))
            errors = [[max(0.0, share - low)], [max(0.0, high - share)]]
            mark: dict[str, Any] = {"fmt": "o", "color": colour, "markersize": 4.5, "clip_on": False}
            axes.errorbar(rate * aside, share, yerr=errors, elinewidth=1.1, capsize=3, **mark)


def _top(curves: Sequence[DetCurve], most: float) -> float:
    """The end of the missed axis, %: above the largest share up to `most` false accepts an hour and above the marks'
    intervals."""
    shares = [100 * missed / curve.spoken for curve in curves for n, missed in curve.steps if n <= most * curve.hours]
    marked = [(curve.missed_at(rate), curve.spoken) for curve in curves for rate in _MARKED]
    ends = [100 * wilson_interval(missed, spoken)[1] for missed, spoken in marked if missed is not None]
    return min(100.0, max([1.15 * max([*shares, 5.0]), *(1.03 * end for end in ends)]))
