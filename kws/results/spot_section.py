"""The results of `kws spot --truth` (RUN/spot/NAME) as text, and as sections of the report page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from kws.results.formats import clock_time, duration, number
from kws.results.page_parts import embedded, picture_card, section, table
from kws.results.records import Row, read_json

WORD_COLUMNS = ("word", "missed", "missed, % (95 %)", "false accepts", "an hour (95 %)", "latency", "95 % within")
RATE_COLUMNS = ("false accepts/h, at most", "threshold", "missed", "missed, % (95 %)", "false accepts/h (95 %)")


def read_spots(run: Path) -> list[tuple[Path, Row]]:
    """Folder and result.json of each evaluation of continuous audio, by name; those that are damaged are left out."""
    found = ((path.parent, read_json(path)) for path in sorted(run.glob("spot/*/result.json")))
    return [(folder, result) for folder, result in found if _is_complete(result)]


def _is_complete(result: Row) -> bool:
    figures = result.get("figures")
    return isinstance(figures, dict) and isinstance(figures.get("per_word"), list) and "name" in result


def word_cells(figures: Row) -> list[list[str]]:
    """A row over all words and one for each, with a text for each of WORD_COLUMNS."""
    return [_word_row({"word": "all words", **figures}), *map(_word_row, figures["per_word"])]


def _word_row(row: Row) -> list[str]:
    latencies = [_seconds(row.get(key)) for key in ("latency_median_s", "latency_95_s")]
    false_accepts = number(row.get("false_accepts"), ",")
    return [str(row["word"]), _missed(row), _share(row), false_accepts, _per_hour(row), *latencies]


def rate_cells(rates: Sequence[Row]) -> list[list[str]]:
    """A row for each number of false accepts an hour, with a text for each of RATE_COLUMNS."""
    return [
        [
            number(row.get("wanted_per_hour"), "g"),
            number(row.get("threshold"), ".4f"),
            _missed(row),
            _share(row),
            _per_hour(row),
        ]
        for row in rates
    ]


def _missed(row: Row) -> str:
    return f"{number(row.get('missed'), ',')} of {number(row.get('spoken'), ',')}"


def _share(row: Row) -> str:
    """The missed share in %, with its interval: 4.1 (2.0-8.1), 35.0 (23-50)."""
    if row.get("missed_share") is None:
        return "-"
    share, low, high = (100 * value for value in (row["missed_share"], *row["missed_interval95"]))
    digits = 0 if high - low > 10 else 1
    return f"{share:.1f} ({low:.{digits}f}-{high:.{digits}f})"


def _per_hour(row: Row) -> str:
    """False accepts an hour, with their interval: 5 (0.13-28)."""
    if row.get("per_hour") is None:
        return "-"
    low, high = row["per_hour_interval95"]
    return f"{row['per_hour']:.3g} ({_two_digits(low)}-{_two_digits(high)})"


def _two_digits(value: float) -> str:
    """Two significant digits; numbers of three digits and more as whole numbers."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _seconds(value: object) -> str:
    return "-" if value is None else f"{number(value, '.2f')} s"


def rates_title(result: Row) -> str:
    """Where the thresholds of `rate_cells` come from."""
    if result.get("at_from") == "stored":
        return "Missed words at thresholds chosen on other recordings"
    return "Missed words at thresholds chosen on these recordings"


def facts(result: Row) -> list[str]:
    """Lines about what was measured and how."""
    settings, network, rules = (result.get(key) or {} for key in ("settings", "network", "rules"))
    hours, count = result["figures"].get("hours"), len(result.get("recordings") or [])
    smooth, refractory = (number(settings.get(key), "g") for key in ("smooth_ms", "refractory_ms"))
    smoothing = f"mean over {smooth} ms" if settings.get("smooth_ms") else "no smoothing"
    return [
        f"{count} recording{'s' * (count != 1)}, {duration(3600 * hours) if hours else '0 s'}; threshold "
        f"{result.get('threshold')} ({result.get('threshold_source')})",
        f"{network.get('name')}, checkpoint {network.get('checkpoint')}, {network.get('scorer')}: a score every "
        f"{number(network.get('step_ms'), 'g')} ms, {smoothing}, no event for {refractory} ms after one",
        f"counted as in preset {result.get('preset')}: a hit is the first event from a word's start to "
        f"{number(rules.get('hit_s'), 'g')} s after its end; more events up to {number(rules.get('ignore_s'), 'g')} s "
        f"after it are not counted; false accepts over the hours of audio{_outside(rules)}",
    ]


def _outside(rules: Row) -> str:
    return "" if rules.get("hours", "all") == "all" else " outside words"


# --- page -------------------------------------------------------------------------------------------------------------


def spot_sections(run: Path) -> str:
    """The sections of all evaluations of continuous audio, as HTML; "" where there is none."""
    return "".join(
        section(f"Continuous audio: {result['name']}", _content(folder, result)) for folder, result in read_spots(run)
    )


def _content(folder: Path, result: Row) -> str:
    lines = [*facts(result), *(f"Note: {note}" for note in result.get("notes") or [])]
    rates = rate_cells(result.get("at") or [])
    clips = _clips(folder)
    parts = [
        "".join(f"<p>{escape(str(line))}.</p>" for line in lines),
        _curve(folder),
        f"<h3>{escape(rates_title(result))}</h3>{table(RATE_COLUMNS, rates, 'rrrrr')}" if rates else "",
        f"<h3>At the threshold {escape(str(result.get('threshold')))}</h3>",
        table(WORD_COLUMNS, word_cells(result["figures"]), "lrrrrrr"),
        _cards("Most probable false accepts", clips, "false accept", folder),
        _cards("Missed words", clips, "miss", folder),
    ]
    return "".join(parts)


def _curve(folder: Path) -> str:
    try:
        return picture_card((folder / "det.png").read_bytes(), "Missed words against false accepts an hour", 420)
    except OSError:
        return ""


def _clips(folder: Path) -> list[Row]:
    try:
        rows = json.loads((folder / "clips" / "clips.json").read_bytes())
    except (OSError, ValueError):
        return []
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _cards(title: str, clips: Sequence[Row], kind: str, folder: Path) -> str:
    cards = "".join(_card(row, folder) for row in clips if row.get("kind") == kind)
    return f'<h3>{title}</h3><div class="cards">{cards}</div>' if cards else ""


def _card(row: Row, folder: Path) -> str:
    try:
        sound = embedded("audio/flac", (folder / "clips" / Path(str(row["clip"])).name).read_bytes())
    except (OSError, KeyError):
        return ""
    chance = "" if row.get("probability") is None else f"probability {number(row['probability'], '.0%')}; "
    where = f"{Path(str(row.get('path'))).name} at {clock_time(row.get('time_s'))}"
    return (
        f"<figure><figcaption><b>{escape(str(row.get('word')))}</b><small>{chance}{escape(where)}</small></figcaption>"
        f'<audio controls preload="metadata" src="{sound}"></audio></figure>'
    )
