"""The HTML of a run's report page. Every text that comes from a file is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from kws.results import open_set
from kws.results.formats import (
    CLASS_COLUMNS,
    PAIR_COLUMNS,
    class_cells,
    clock,
    duration,
    number,
    pair_cells,
    result_figures,
    split_name,
)  # fmt: skip
from kws.results.hints import Hint
from kws.results.page_parts import picture_card, section, table
from kws.results.page_style import STYLE, plot_scripts, security_policy
from kws.results.records import AttemptSummary, Row, SamplingAudit
from kws.results.time_use import (
    EPISODE_COLUMNS,
    PART_COLUMNS,
    PROFILE_COLUMNS,
    TimeUse,
    episode_cells,
    part_cells,
    profile_cells,
    rank_columns,
)  # fmt: skip


@dataclass(frozen=True)
class PageContent:
    """What a page shows; empty or None where the run does not have it yet."""

    name: str
    config: str
    """Text of config.toml."""
    run: Row
    """Content of run.json."""
    status: Row
    epochs: Sequence[Row]
    attempts: Sequence[AttemptSummary]
    results: Sequence[Row]
    """Summaries of the evaluations."""
    confusions: Sequence[bytes]
    """For each of `results`, its confusion matrix as a PNG."""
    mistakes: Sequence[str]
    """For each of `results`, the cards of its mistakes as HTML."""
    curves: Sequence[Row]
    """plotly figures of the training curves."""
    matrices: Sequence[Row]
    """For each of `results`, the plotly figure of its confusion matrix."""
    spots: str
    """The sections of evaluations on continuous audio, as HTML."""
    hints: Sequence[Hint]
    sampling: SamplingAudit | None
    time_use: TimeUse


def render(content: PageContent) -> str:
    """The whole page. Its security policy lets the browser fetch nothing, and run only the page's own scripts."""
    title = escape(content.name)
    per_result = zip(content.results, content.matrices, content.confusions, content.mistakes, strict=True)
    evaluated = "".join(
        _split_section(result, mistakes, _matrix(number, matrix, picture))
        for number, (result, matrix, picture, mistakes) in enumerate(per_result, len(content.curves))
    )
    body = [
        f"<header><h1>{title}</h1>{_headline(content)}</header>",
        section("Training", _clip_notes(content.run) + _curves(len(content.curves))),
        section("Time", _time(content.time_use, len(content.curves) + len(content.matrices))),
        evaluated or section("Evaluation", "<p>Not evaluated yet.</p>"),
        content.spots,
        _hints(content.hints),
        section("Sampling", _sampling(content.sampling)),
        section("History", _history(content.attempts)),
        section("Ranks", _ranks(content.run.get("ranks"), rank_columns(content.time_use))),
        section("Software, hardware, corpus", _environment(content.run)),
        section("Configuration", f'<div class="scroll"><pre>{escape(content.config)}</pre></div>'),
    ]
    made = f"<footer>Written {clock(datetime.now(UTC).timestamp())} by kws report.</footer>"
    tail, allowed = plot_scripts([*content.curves, *content.matrices, *content.time_use.plots])
    head = f'{_HEAD}{security_policy(allowed)}">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
    return head + "\n".join(body) + made + tail + "\n</body>\n</html>\n"


_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content=\""""


# --- parts -------------------------------------------------------------------------------------------------


def _headline(content: PageContent) -> str:
    cells = (
        f"<div><dt>{escape(a)}</dt><dd>{escape(b)}<small>{escape(c)}</small></dd></div>" for a, b, c in tiles(content)
    )
    return f"<dl>{''.join(cells)}</dl>"


def tiles(content: PageContent) -> list[tuple[str, str, str]]:
    """The run's main figures: name, value, and a remark or ""."""
    last_end = next((attempt.end for attempt in reversed(content.attempts) if attempt.end), None)
    # Of the latest attempt: after a resume the run may be at an earlier step than before.
    steps = content.attempts[-1].last if content.attempts else content.status.get("step")
    best = max((row["valid_accuracy"] for row in content.epochs if row.get("valid_accuracy") is not None), default=None)
    return [
        *(_accuracy_tile(result) for result in content.results if result["split"] == "test"),
        ("best valid accuracy", number(best, ".2%"), ""),
        ("network", str(content.run.get("network") or (content.results or [{}])[0].get("network") or "-"), ""),
        ("parameters", number(content.run.get("parameters"), ","), ""),
        ("epochs", number(len(content.epochs), ","), ""),
        ("steps", number(steps, ","), ""),
        (
            "wall time",
            duration(sum(attempt.seconds for attempt in content.attempts)),
            _over_starts(len(content.attempts)),
        ),
        ("state", str(content.status.get("state") or last_end or "unknown"), ""),
    ]


def _hints(hints: Sequence[Hint]) -> str:
    """A section with a table of the hints; "" where there are none."""
    rows = table(("measured", "what usually helps"), hints, "ll")
    return section("What usually helps next", rows) if hints else ""


def _accuracy_tile(result: Row) -> tuple[str, str, str]:
    low, high = (result.get("interval95") or (None, None))[:2]
    note = f"95 % interval {number(low, '.2%')} to {number(high, '.2%')}, n = {number(result.get('n'), ',')}"
    return f"{split_name(result)} accuracy", number(result.get("accuracy"), ".2%"), note.replace(" %", "\u00a0%")


def _over_starts(starts: int) -> str:
    return f"over {starts} starts" if starts > 1 else ""


def _clip_notes(run: Row) -> str:
    """What happened with recordings that are longer or much shorter than the clips."""
    notes = run.get("clip_notes")
    return "".join(f"<p>Note: {escape(str(note))}.</p>" for note in notes) if isinstance(notes, list) else ""


def _curves(count: int) -> str:
    """The elements in which the script draws the curves."""
    if not count:
        return "<p>Nothing is recorded yet.</p>"
    elements = "".join(f'<div id="plot-{number}"></div>' for number in range(count))
    hint = "<noscript><p>The curves are drawn by a script, which this browser does not run.</p></noscript>"
    return f'<div class="plots">{elements}</div>{hint}'


def _matrix(number: int, plot: Row, picture: bytes) -> str:
    """The element in which the script draws a confusion matrix; without scripts, its picture."""
    words = len(plot["data"][0]["z"])
    size = f"min-width:{240 + 26 * words}px;max-width:{420 + 40 * words}px;height:{plot['layout']['height']}px"
    still = picture_card(picture, "Confusion matrix", min_width=200 + 24 * words)
    return f'<div class="scroll"><div id="plot-{number}" style="{size}"></div></div><noscript>{still}</noscript>'


def _time(use: TimeUse, first_plot: int) -> str:
    """Where the time went; `first_plot`: the number of the first of its plots on the page."""
    if not use.seconds:
        return "<p>Not recorded.</p>"
    plots = "".join(f'<div id="plot-{first_plot + place}"></div>' for place in range(len(use.plots)))
    beside = [("Parts of a step, on rank 0", table(PART_COLUMNS, part_cells(use), "lrrr"))]
    if use.rank_seconds:
        stragglers = table(EPISODE_COLUMNS, episode_cells(use), "rlrrrlr") if use.episodes else "<p>None.</p>"
        beside.append(("Stragglers: ranks for which the others waited", stragglers))
    if use.profiles:
        beside.append(("Profiles", table(PROFILE_COLUMNS, profile_cells(use), "lrrrrrl")))
    tables = "".join(f"<div><h3>{title}</h3>{content}</div>" for title, content in beside)
    return (f'<div class="plots">{plots}</div>' if plots else "") + f'<div class="beside">{tables}</div>'


def _sampling(audit: SamplingAudit | None) -> str:
    """Planned and consumed draws of each class in the newest epoch."""
    if audit is None:
        return "<p>The corpus is not available here, or no step was done yet.</p>"
    kept = audit.rows[0].consumed is not None
    names = ("class", "clips", "planned draws", "consumed draws")[: 4 if kept else 3]
    rows = [
        (row.word, f"{row.clips:,}", f"{row.planned:,}", number(row.consumed, ","))[: len(names)] for row in audit.rows
    ]
    text = f"Epoch {audit.epoch + 1}, its first {audit.steps:,} steps."
    if not kept:
        text += " Consumed draws are recorded only with data.ledger=true."
    elif all(row.consumed == row.planned for row in audit.rows):
        text += " The consumed draws match the plan."
    else:
        text += " The ledger is behind the plan: it is flushed with each checkpoint; see also kws verify."
    return f"<p>{text}</p>{table(names, rows, 'lrrr'[: len(names)])}"


def _split_section(result: Row, mistakes: str, matrix: str) -> str:
    name = split_name(result)
    classes = table(CLASS_COLUMNS, class_cells(result), "lrrrrl")
    parts = [
        f"<p>{escape('; '.join(result_figures(result)))}.</p>",
        matrix,
        f'<div class="beside"><div><h3>Classes</h3>{classes}</div>',
        f"<div><h3>Most confused pairs</h3>{_pairs(result)}</div></div>",
        _open_set(result) if open_set.has_open_set(result) else "",
        f'<h3>Worst mistakes</h3><div class="cards">{mistakes}</div>' if mistakes else "",
    ]
    return section(f"Evaluation: {name}", "".join(parts))


def _open_set(result: Row) -> str:
    """What share of sounds that are no wanted word is taken for one."""
    names = open_set.open_set_columns(result)
    shares = table(names, open_set.open_set_cells(result), "r" * len(names))
    text = f"{open_set.EXPLANATION} {open_set.silence_line(result)}."
    return f"<h3>Open set: what is taken for a word</h3><p>{escape(text)}</p>{shares}"


def _pairs(result: Row) -> str:
    rows = pair_cells(result)
    return table(PAIR_COLUMNS, rows, "llrr") if rows else "<p>No clip was confused with another word.</p>"


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
    return table(names, rows, "rlrrrrl")


def _end(attempt: AttemptSummary) -> str:
    return attempt.end or "no end recorded: killed, or still running"


def _ranks(ranks: object, times: Sequence[Row]) -> str:
    """The ranks of the latest attempt; `times`: more columns for each of them, or []."""
    rows = [rank for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []
    if len(times) == len(rows):
        rows = [row | own for row, own in zip(rows, times, strict=True)]
    if not rows:
        return "<p>Not recorded.</p>"
    names = list(dict.fromkeys(["rank", "host", "device", "slots", *(key for row in rows for key in row)]))
    return table(names, [[row.get(name, "-") for name in names] for row in rows], "r" + "l" * (len(names) - 1))


def _environment(run: Row) -> str:
    shown = {
        "network",
        "parameters",
        "ranks",
        "clip_notes",
        "step_notes",
        "precision_notes",
        "network_notes",
    }  # shown elsewhere on the page, or printed at the start of the run
    rows = [
        (key.replace("_", " ") if name is None else f"{key}: {name}", _plain(value))
        for key, whole in run.items()
        if key not in shown
        for name, value in (whole.items() if isinstance(whole, dict) else [(None, whole)])
        if value is not None
    ]
    return table(("what", "value"), rows, "ll") if rows else "<p>Not recorded.</p>"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
