"""The report page's interactive plots, as figures for plotly.js: plain dicts in which all names are escaped.

Colours that differ between a light and a dark page are set by the page's script.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from kws.results.canvas import COLOURS
from kws.results.formats import number
from kws.results.records import Row, rows_of

Plot = dict[str, Any]
_MAX_POINTS = 2000
"""The most points of a line; longer lines are thinned."""
_FAINT, _TRAIN, _VALID = "rgba(58, 143, 208, 0.45)", "#3a8fd0", COLOURS[1]
"""The blue has a contrast of 3:1 with the light and with the dark page."""


def training_curves(events: Sequence[Row]) -> list[Plot]:
    """Loss, accuracy, learning rate, throughput and data wait over steps; events without the number are left out.

    [] where no step was recorded. Dotted lines mark the steps at which the run was resumed.
    """
    steps, epochs = rows_of(events, "step"), rows_of(events, "epoch")
    if not steps and not epochs:
        return []
    pairs = [
        _plot(what, [
            _line(steps, what, "steps", _FAINT, scale), _line(epochs, f"train_{what}", "train", _TRAIN, scale, True),
            _line(epochs, f"valid_{what}", "valid", _VALID, scale, True),
            _line(epochs, f"ema_valid_{what}", "valid, averaged weights", COLOURS[2], scale, True),
        ], events)
        for what, scale in (("loss", 1.0), ("accuracy", 100.0))
    ]  # fmt: skip
    pairs[1]["layout"]["title"]["text"] = "accuracy, %"
    rest = {
        "learning rate": ("lr", 1.0), "clips per second": ("clips_per_s", 1.0),
        "waiting for data, % of the step": ("data_wait", 100.0),
    }  # fmt: skip
    if any("valid_stream_false_accepts_per_hour" in row for row in epochs):
        rate = _line(epochs, "valid_stream_false_accepts_per_hour", "valid streams", _VALID, 1.0, True)
        pairs.append(_plot("false accepts an hour, valid streams", [rate], events))
    return pairs + [
        _plot(title, [_line(steps or epochs, key, title, _TRAIN, scale)], events)
        for title, (key, scale) in rest.items()
    ]


def _line(rows: Sequence[Row], key: str, name: str, colour: str, scale: float, marks: bool = False) -> Plot:
    kept = [row for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    kept = kept[:: max(1, -(-len(kept) // _MAX_POINTS))]
    return {
        "type": "scatter", "mode": "lines+markers" if marks else "lines", "name": name,
        "x": [row["step"] for row in kept], "y": [scale * row[key] for row in kept],
        "line": {"color": colour, "width": 2 if marks else 1.3}, "marker": {"size": 6},
        "hovertemplate": "%{y:.5~g}",
    }  # fmt: skip


def _plot(title: str, lines: Sequence[Plot], events: Sequence[Row]) -> Plot:
    starts = [row["step"] for row in rows_of(events, "start") if (row.get("attempt") or 1) > 1]
    dashes = [
        {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "width": 1}}
        for at in starts
    ]
    shown = [line for line in lines if line["x"]]
    layout = {
        "title": {"text": title, "x": 0, "xref": "paper"}, "hovermode": "x unified", "shapes": dashes,
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"}, "yaxis": {"rangemode": "tozero"},
        "showlegend": len(shown) > 1, "legend": {"orientation": "h", "y": -0.28}, "height": 300,
        "margin": {"l": 52, "r": 12, "t": 36, "b": 48},
    }  # fmt: skip
    return {"data": shown, "layout": layout}


def confusion_matrix(result: Row) -> Plot:
    """Rows are true words. Colours are square roots of shares of the true word's clips, which shows rare errors.
    Hovering over a cell shows the words, clips and share."""
    counts = np.asarray(result["confusion"], dtype=np.int64)
    words = [escape(str(word)) for word in result["classes"]]
    short = [escape(word if len(word) <= 18 else word[:17] + "…") for word in map(str, result["classes"])]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    hover = [
        [_hover_text(words[i], words[j], int(counts[i, j]), float(share[i, j])) for j in range(len(words))]
        for i in range(len(words))
    ]
    ticks = {"tickvals": list(range(len(words))), "ticktext": short, "zeroline": False, "automargin": True}
    bar = {"tickvals": [0, 0.05**0.5, 0.2**0.5, 0.5**0.5, 1], "ticktext": ["0", "5 %", "20 %", "50 %", "100 %"]}
    heat = {
        "type": "heatmap", "z": np.sqrt(share).round(4).tolist(), "zmin": 0, "zmax": 1, "hovertext": hover,
        "hoverinfo": "text", "xgap": 1, "ygap": 1, "texttemplate": "%{text}",
        "text": [[str(n) if n else "" for n in row] for row in counts.tolist()],
        "colorbar": {**bar, "thickness": 12, "outlinewidth": 0, "len": 0.6},
    }  # fmt: skip
    layout = {
        "height": 170 + 24 * len(words), "margin": {"l": 90, "r": 10, "t": 10, "b": 90},
        "xaxis": {**ticks, "title": {"text": "predicted word"}, "tickangle": -60},
        "yaxis": {**ticks, "title": {"text": "true word"}, "autorange": "reversed"},
    }  # fmt: skip
    return {"data": [heat], "layout": layout}


def _hover_text(truth: str, predicted: str, clips: int, share: float) -> str:
    return f"true: {truth}<br>predicted: {predicted}<br>{clips:,} clips, {number(share, '.1%')} of {truth}"
