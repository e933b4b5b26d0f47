"""The HTML page of kws.results.report: gathered facts in, one string out. Every text from a file is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from kws.results.formats import (
    CLASS_COLUMNS,
    PAIR_COLUMNS,
    class_cells,
    clock,
    duration,
    number,
    pair_cells,
    split_facts,
    split_name,
)  # fmt: skip
from kws.results.records import AttemptSummary, Row, SamplingAudit
from kws.results.style import STYLE, policy, scripts


@dataclass(frozen=True)
class Facts:
    """What one page shows. results, confusions (PNG bytes) and mistakes (HTML) run side by side; {} or None: not there
    yet."""

    name: str
    config: str
    run: Row
    status: Row
    epochs: Sequence[Row]
    attempts: Sequence[AttemptSummary]
    results: Sequence[Row]
    curves: bytes | None
    confusions: Sequence[bytes]
    plots: Sequence[Row]
    """Figures of the curves, then one for each of `results`."""
    mistakes: Sequence[str]
    sampling: SamplingAudit | None


def render(facts: Facts) -> str:
    """The whole page. Its policy line forbids the browser to fetch anything, and to run any script but its own."""
    title = escape(facts.name)
    first = len(facts.plots) - len(facts.results)
    evaluated = "".join(
        _split_section(result, mistakes, _spot(first + place, facts.plots[first + place], picture))
        for place, (result, picture, mistakes) in enumerate(
            zip(facts.results, facts.confusions, facts.mistakes, strict=True)
        )
    )
    body = [
        f"<header><h1>{title}</h1>{_headline(facts)}</header>",
        _section("Training", _curves(facts, first)),
        evaluated or _section("Evaluation", "<p>Not evaluated yet.</p>"),
        _section("Sampling", _sampling(facts.sampling)),
        _section("History", _history(facts.attempts)),
        _section("Ranks", _ranks(facts.run.get("ranks"))),
        _section("Software, hardware, corpus", _surroundings(facts.run)),
        _section("Configuration", f'<div class="scroll"><pre>{escape(facts.config)}</pre></div>'),
    ]
    made = f"<footer>Written {clock(datetime.now(UTC).timestamp())} by kws report.</footer>"
    tail, allowed = scripts(facts.plots)
    head = f'{_HEAD}{policy(allowed)}">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
    return head + "\n".join(body) + made + tail + "\n</body>\n</html>\n"


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content=\""""


# --- parts -------------------------------------------------------------------------------------------------


def _headline(facts: Facts) -> str:
    cells = (
        f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in tiles(facts)
    )
    return f"<dl>{''.join(cells)}</dl>"


def tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """The run in a few figures: what, how much, and a remark (or "")."""
    last_end = next((attempt.end for attempt in reversed(facts.attempts) if attempt.end), None)
    # The latest attempt, not the furthest: after a resume the run stands where that one is.
    steps = facts.attempts[-1].last if facts.attempts else facts.status.get("step")
    best = max((row["valid_accuracy"] for row in facts.epochs if row.get("valid_accuracy") is not None), default=None)
    return [
        *(_accuracy_tile(result) for result in facts.results if result["split"] == "test"),
        ("best valid accuracy", number(best, ".2%"), ""),
        ("network", str(facts.run.get("network") or (facts.results or [{}])[0].get("network") or "-"), ""),
        ("parameters", number(facts.run.get("parameters"), ","), ""),
        ("epochs", number(len(facts.epochs), ","), ""),
        ("steps", number(steps, ","), ""),
        ("wall time", duration(sum(attempt.seconds for attempt in facts.attempts)), _times(len(facts.attempts))),
        ("state", str(facts.status.get("state") or last_end or "unknown"), ""),
    ]


def _accuracy_tile(result: Row) -> tuple[str, str, str]:
    low, high = (result.get("interval95") or (None, None))[:2]
    note = f"95 % interval {number(low, '.2%')} to {number(high, '.2%')}, n = {number(result.get('n'), ',')}"
    return f"{split_name(result)} accuracy", number(result.get("accuracy"), ".2%"), note.replace(" %", "\u00a0%")


def _times(starts: int) -> str:
    return f"over {starts} starts" if starts > 1 else ""


def _curves(facts: Facts, count: int) -> str:
    """The plots side by side; without scripts, the picture."""
    if not count:
        return "<p>Nothing is recorded yet.</p>"
    spots = "".join(f'<div id="plot-{place}"></div>' for place in range(count))
    still = _picture(facts.curves, "Curves of loss, accuracy, learning rate and throughput")
    return f'<div class="plots">{spots}</div><noscript>{still}</noscript>'


def _spot(place: int, plot: Row, picture: bytes) -> str:
    """Where a confusion matrix is drawn; without scripts, its picture."""
    words = len(plot["data"][0]["z"])
    size = f"min-width:{240 + 26 * words}px;max-width:{420 + 40 * words}px;height:{plot['layout']['height']}px"
    still = _picture(picture, "Confusion matrix", least=200 + 24 * words)
    return f'<div class="scroll"><div id="plot-{place}" style="{size}"></div></div><noscript>{still}</noscript>'


def _sampling(audit: SamplingAudit | None) -> str:
    """Draws of each class against the plan, in the newest epoch."""
    if audit is None:
        return "<p>The corpus is not at hand, or nothing was drawn yet.</p>"
    kept = audit.rows[0].consumed is not None
    names = ("class", "clips", "planned draws", "consumed draws")[: 4 if kept else 3]
    rows = [
        (row.word, f"{row.clips:,}", f"{row.planned:,}", number(row.consumed, ","))[: len(names)] for row in audit.rows
    ]
    said = f"Epoch {audit.epoch + 1}, its first {audit.steps:,} steps."
    if not kept:
        said += " What was consumed is written down with data.ledger=true."
    elif all(row.consumed == row.planned for row in audit.rows):
        said += " What was consumed is what was planned."
    else:
        said += " The ledger is behind the plan: it is brought to the disk with each checkpoint; see also kws verify."
    return f"<p>{said}</p>{_table(names, rows, 'lrrr'[: len(names)])}"


def _split_section(result: Row, mistakes: str, matrix: str) -> str:
    name = split_name(result)
    classes = _table(CLASS_COLUMNS, class_cells(result), "lrrrrl")
    parts = [
        f"<p>{escape('; '.join(split_facts(result)))}.</p>",
        matrix,
        f'<div class="beside"><div><h3>Classes</h3>{classes}</div>',
        f"<div><h3>Most confused pairs</h3>{_pairs(result)}</div></div>",
        f'<h3>Worst mistakes</h3><div class="cards">{mistakes}</div>' if mistakes else "",
    ]
    return _section(f"Evaluation: {name}", "".join(parts))


def _pairs(result: Row) -> str:
    rows = pair_cells(result)
    return _table(PAIR_COLUMNS, rows, "llrr") if rows else "<p>No clip was taken for another word.</p>"


def _history(attempts: Sequence[AttemptSummary]) -> str:
    if not attempts:
        return "<p>No start is recorded yet.</p>"
    names = ("attempt", "began", "ranks", "from step", "to step", "time", "end")
    rows = [
        (
            a.number,
            clock(a.began),
            number(a.world_size, "d"),
            f"{a.first:,}",
            f"{a.last:,}",
            duration(a.seconds),
            _end(a),
        )
        for a in attempts
    ]
    return _table(names, rows, "rlrrrrl")


def _end(attempt: AttemptSummary) -> str:
    return attempt.end or "no end line: killed, or still running"


def _ranks(ranks: object) -> str:
    rows = [rank for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []
    if not rows:
        return "<p>Not recorded.</p>"
    names = list(dict.fromkeys(["rank", "host", "device", "slots", *(key for row in rows for key in row)]))
    return _table(names, [[row.get(name, "-") for name in names] for row in rows], "r" + "l" * (len(names) - 1))


def _surroundings(run: Row) -> str:
    shown = {"network", "parameters", "ranks"}  # these have their own place on the page
    rows = [
        (key.replace("_", " ") if name is None else f"{key}: {name}", _plain(value))
        for key, whole in run.items()
        if key not in shown
        for name, value in (whole.items() if isinstance(whole, dict) else [(None, whole)])
        if value is not None
    ]
    return _table(("what", "value"), rows, "ll") if rows else "<p>Not recorded.</p>"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- pieces ------------------------------------------------------------------------------------------------


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _picture(png: bytes | None, text: str, least: int = 620) -> str:
    """A picture on its own white card, so that it reads in the dark; `least` is its smallest width in px."""
    if png is None:
        return "<p>Nothing is recorded yet.</p>"
    data = base64.b64encode(png).decode("ascii")
    width = int.from_bytes(png[16:20], "big") * 5 // 8  # drawn at 140 dots an inch: this is text at reading size
    size = f"width:{width}px;min-width:{min(least, width)}px"
    image = f'<img alt="{escape(text)}" style="{size}" src="data:image/png;base64,{data}">'
    return f'<div class="scroll card">{image}</div>'


def _table(names: Iterable[str], rows: Iterable[Iterable[object]], align: str) -> str:
    """align has an "l" (text) or an "r" (number) for each column."""

    def line(tag: str, cells: Iterable[object]) -> str:
        pairs = zip(cells, align, strict=True)
        return "<tr>" + "".join(f'<{tag} class="{side}">{escape(str(cell))}</{tag}>' for cell, side in pairs) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", names)}</thead><tbody>{body}</tbody></table></div>'
