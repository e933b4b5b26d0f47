"""Where the time of a run went: the parts of a step over the run, the ranks beside each other, stragglers, profiles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kws.results import records
from kws.results.formats import duration, number
from kws.results.records import Row, rows_of
from kws.run.step_parts import LABELS, PARTS, shares
from kws.run.stragglers import RankShare, compare_ranks

Plot = dict[str, Any]
_COLOURS = {
    "data": "#D55E00", "front_end": "#E69F00", "forward": "#56B4E9", "backward": "#0072B2", "all_reduce": "#CC79A7",
    "update": "#009E73", "save": "#8a6d3b", "evaluation": "#F0E442", "other": "#9a9a9a",
}  # fmt: skip
_MOST_POINTS = 100
"""Points of the plot over the run: a longer run is summed up in pieces."""


@dataclass(frozen=True)
class Episode:
    """A rank that was a straggler from one step to another. `ratio`: the highest that was noted."""

    rank: int
    host: str
    first: int
    last: int
    over: bool
    ratio: float
    part: str
    wait: float


@dataclass(frozen=True)
class TimeUse:
    """Empty where the run has no such lines: they are newer than the first versions of kws."""

    steps: int = 0
    seconds: Row | None = None
    """Part of a step -> seconds of rank 0, over `steps` steps."""
    rank_steps: int = 0
    rank_seconds: Row | None = None
    """Part of a step -> seconds of each rank, over `rank_steps` steps of the runs with the latest number of ranks."""
    episodes: Sequence[Episode] = ()
    plots: Sequence[Plot] = ()
    profiles: Sequence[Row] = ()
    """The summaries of RUN/profile, each with its `file`."""

    @property
    def rank_shares(self) -> list[RankShare]:
        """The ranks beside each other."""
        return compare_ranks(self.rank_seconds) if self.rank_seconds else []


def read_time_use(run: Path, events: Sequence[Row]) -> TimeUse:
    """From the events of a run, each once, and from the summaries in RUN/profile."""
    pieces = _pieces(events)
    seconds = _added(parts for _, _, parts in pieces)
    of_ranks = _latest_ranks(rows_of(events, "ranks"))
    rank_seconds = _added_ranks([row["seconds"] for row in of_ranks]) if of_ranks else None
    rank_steps = sum(int(row["steps"]) for row in of_ranks)
    plots = [_parts_plot(pieces)] if len(pieces) > 1 else []
    if rank_seconds and rank_steps:
        plots.append(_ranks_plot(rank_seconds, rank_steps))
    return TimeUse(
        sum(count for _, count, _ in pieces), seconds or None, rank_steps, rank_seconds,
        _episodes(rows_of(events, "straggler")), plots, _profiles(run),
    )  # fmt: skip


def _pieces(events: Sequence[Row]) -> list[tuple[int, int, Row]]:
    """(step, steps, part -> seconds) of the lines that have parts; the lines of one step are added up."""
    found: dict[int, tuple[int, Row]] = {}
    at = 0
    for row in events:
        parts = row.get("parts")
        if isinstance(parts, dict) and isinstance(row.get("step"), int):
            known = found.get(row["step"], (0, {}))
            found[row["step"]] = known[0] + max(0, row["step"] - at), _added([known[1], parts])
        if row["event"] in ("start", "step"):
            at = row["step"]
    return [(step, *piece) for step, piece in found.items()]


def _added(rows: Iterable[Row]) -> Row:
    total: dict[str, float] = defaultdict(float)
    for row in rows:
        for part in PARTS:
            if isinstance(row.get(part), int | float):
                total[part] += row[part]
    return dict(total)


def _latest_ranks(rows: Sequence[Row]) -> list[Row]:
    """The rows with as many ranks as the last: a run may resume on another number."""

    def ranks(row: Row) -> int:
        columns = row["seconds"].values() if isinstance(row.get("seconds"), dict) else ()
        return min((len(column) for column in columns), default=0)

    count = ranks(rows[-1]) if rows else 0
    return [row for row in rows if count > 1 and ranks(row) == count]


def _added_ranks(rows: Sequence[Row]) -> Row:
    count = len(next(iter(rows[0].values())))
    parts = [part for part in PARTS if any(part in row for row in rows)]
    return {part: [sum(row[part][rank] for row in rows if part in row) for rank in range(count)] for part in parts}


def _episodes(rows: Sequence[Row]) -> list[Episode]:
    found: list[Episode] = []
    now: dict[int, int] = {}  # rank -> place in `found`
    for row in rows:
        rank, known = row["rank"], now.get(row["rank"])
        before = found[known] if known is not None else None
        ratio = max(row["ratio"], before.ratio if before else 0.0)
        first = before.first if before else max(0, row["step"] - row["steps"])
        episode = Episode(
            rank, str(row["host"]), first, row["step"], not row["slow"], ratio, str(row["part"]), row["wait"]
        )  # fmt: skip
        if known is None:
            now[rank] = len(found)
            found.append(episode)
        else:
            found[known] = episode
        if not row["slow"]:
            now.pop(rank)
    return found


def _profiles(run: Path) -> list[Row]:
    paths = sorted(run.glob("profile/*.summary.json"))
    found = [{"file": path.name.removesuffix(".summary.json"), **records.read_json(path)} for path in paths]
    return [row for row in found if isinstance(row.get("seconds_a_step"), float)]


# --- plots -----------------------------------------------------------------------------------------------------


def _parts_plot(pieces: Sequence[tuple[int, int, Row]]) -> Plot:
    """Shares of the parts over the steps, stacked."""
    per_point = -(-len(pieces) // _MOST_POINTS)
    points = [pieces[at : at + per_point] for at in range(0, len(pieces), per_point)]
    steps = [point[-1][0] for point in points]
    fractions = [shares(_added(parts for _, _, parts in point)) for point in points]
    lines = [
        {
            "type": "scatter", "mode": "lines", "stackgroup": "parts", "name": LABELS[part], "x": steps,
            "y": [round(100.0 * share.get(part, 0.0), 3) for share in fractions],
            "line": {"width": 0, "color": _COLOURS[part]}, "fillcolor": _COLOURS[part],
            "hovertemplate": "%{y:.1f} %",
        }
        for part in PARTS if any(part in share for share in fractions)
    ]  # fmt: skip
    layout = _layout("parts of the time, %", "step") | {"hovermode": "x unified"}
    layout["yaxis"] = {"range": [0, 100]}
    return {"data": lines, "layout": layout}


def _ranks_plot(seconds: Row, steps: int) -> Plot:
    """A bar for each rank: milliseconds a step by part."""
    bars = [
        {
            "type": "bar", "name": LABELS[part], "x": list(range(len(of_rank))),
            "y": [round(1000.0 * own / steps, 3) for own in of_rank], "marker": {"color": _COLOURS[part]},
            "hovertemplate": "%{y:.1f} ms",
        }
        for part, of_rank in seconds.items() if part not in ("save", "evaluation")
    ]  # fmt: skip
    layout = _layout("ranks, ms a step", "rank") | {"barmode": "stack", "hovermode": "x unified"}
    layout["xaxis"] |= {"dtick": max(1, len(bars[0]["x"]) // 16)}
    return {"data": bars, "layout": layout}


def _layout(title: str, along: str) -> Plot:
    return {
        "title": {"text": title, "x": 0, "xref": "paper"}, "xaxis": {"title": {"text": along}},
        "yaxis": {"rangemode": "tozero"}, "showlegend": True, "legend": {"orientation": "h", "y": -0.28},
        "height": 340, "margin": {"l": 52, "r": 12, "t": 36, "b": 48},
    }  # fmt: skip


# --- tables ----------------------------------------------------------------------------------------------------

PART_COLUMNS = ("part", "share", "ms a step", "time")
EPISODE_COLUMNS = ("rank", "host", "from step", "to step", "busy, x the median", "most of it in", "others waited")
PROFILE_COLUMNS = ("steps", "rank", "ms a step", "data wait", "front end, of the GPU's work", "GPU busy", "file")


def part_cells(use: TimeUse) -> list[list[str]]:
    """The rows of the table of parts."""
    seconds = use.seconds or {}
    return [
        [
            LABELS[part],
            number(share, ".1%"),
            number(1000.0 * seconds[part] / use.steps if use.steps else None, ",.1f"),
            duration(seconds[part]) if seconds[part] >= 1.0 else f"{seconds[part]:.2f} s",
        ]
        for part, share in shares(seconds).items()
    ]


def episode_cells(use: TimeUse) -> list[list[str]]:
    """The rows of the table of stragglers."""
    return [
        [
            str(found.rank), found.host, f"{found.first:,}", f"{found.last:,}" if found.over else "the end",
            number(found.ratio, ".1f"), LABELS.get(found.part, found.part), number(found.wait, ".0%"),
        ]
        for found in use.episodes
    ]  # fmt: skip


def profile_cells(use: TimeUse) -> list[list[str]]:
    """The rows of the table of profiles."""
    return [
        [
            f"{row.get('first')} to {row.get('last')}", str(row.get("rank")),
            number(1000.0 * row["seconds_a_step"], ",.1f"),
            *(number(row.get(key), ".1%") for key in ("data_wait_share", "front_end_device_share", "gpu_busy_share")),
            f"profile/{row['file']}.json.gz",
        ]
        for row in use.profiles
    ]  # fmt: skip


def rank_columns(use: TimeUse) -> list[Row]:
    """What the table of ranks shows beside each rank; [] where their times are not known."""
    return [
        {
            "busy, ms a step": number(1000.0 * share.busy / use.rank_steps, ",.1f"),
            "x the median": number(share.ratio, ".2f"),
            "lost most in": LABELS[share.part] if share.ratio >= 1.05 else "-",
        }
        for share in use.rank_shares
    ]
