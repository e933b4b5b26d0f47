"""Numbers and results as text, for the terminal, the HTML page and the pictures."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from kws import metrics
from kws.results.records import Row


def number(value: object, form: str) -> str:
    """A number with that format spec; "-" where `value` is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    if not math.isfinite(value):
        return str(value)
    return format(round(value) if form.endswith("d") else value, form).replace("%", " %")


def clock(seconds: object) -> str:
    """Unix seconds as date and time in UTC; "-" where `seconds` is not a number."""
    if not isinstance(seconds, int | float):
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """75.2 -> "1 min 15 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def split_name(result: Row) -> str:
    """The split of a result, and whether crops were used."""
    return f"{result.get('split') or 'split'}{', with crops' if result.get('crop') else ''}"


def accuracy_text(result: Row) -> str:
    """The accuracy of a result, with its 95 % interval where it has one."""
    low, high = (result.get("interval95") or (None, None))[:2]
    interval = f" (95 % interval {number(low, '.2%')} to {number(high, '.2%')})" if low is not None else ""
    return f"accuracy {number(result.get('accuracy'), '.2%')}{interval}"


def result_figures(result: Row) -> list[str]:
    """The figures of a result as texts; those that it does not have are left out."""
    figures = [
        accuracy_text(result),
        f"mean recall of classes {number(result.get('macro_accuracy'), '.2%')}",
        f"top 5 {number(result.get('top5'), '.2%')}",
        f"loss {number(result.get('loss'), '.4f')}",
        f"calibration error {number(result.get('calibration_error'), '.2%')}",
        f"{number(result.get('n'), ',')} clips",
        "checkpoint {}, epoch {}, step {}".format(*(result.get(key, "-") for key in ("checkpoint", "epoch", "step"))),
    ]
    return [figure for figure in figures if not figure.endswith(" -")]


CLASS_COLUMNS = ("word", "clips", "precision", "recall", "F1", "most confused with")


def class_cells(result: Row) -> list[list[str]]:
    """The rows of the table of classes, with one text for each of CLASS_COLUMNS."""

    def cells(row: Row) -> list[str]:
        shares = [number(row.get(name), ".1%") for name in ("precision", "recall", "f1")]
        return [
            str(row.get("word")),
            number(row.get("support"), ","),
            *shares,
            str(row.get("most_confused_with") or "-"),
        ]

    return [cells(row) for row in result.get("per_class", [])]


PAIR_COLUMNS = ("true word", "predicted", "clips", "share of the true word")


def pair_cells(result: Row) -> list[list[str]]:
    """The rows of the table of most confused pairs, with one text for each of PAIR_COLUMNS."""
    pairs = metrics.confused_pairs(result["confusion"], result["classes"])
    return [[p["truth"], p["predicted"], f"{p['clips']:,}", number(p["share"], ".1%")] for p in pairs]


def clock_time(seconds: object) -> str:
    """A time in a recording: 3723.4 -> "1:02:03.4"; "-" where `seconds` is not a number."""
    if not isinstance(seconds, int | float):
        return "-"
    tenths = round(10 * seconds)
    return f"{tenths // 36000}:{tenths // 600 % 60:02d}:{tenths // 10 % 60:02d}.{tenths % 10}"
