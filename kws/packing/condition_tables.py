"""The conditions of a corpus (`kws inspect DIR --conditions`) as a table for the terminal, or as a dict for JSON."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from kws.packing.condition_leaks import Leak
from kws.packing.conditions import MEASURES, Conditions, Values
from kws.packing.source_formats import SourceFormats

_ALL = "all"
_FORMATS_SHOWN, _WORDS_SHOWN = 6, 5


def conditions_table(conditions: Conditions, words: Sequence[str]) -> Table:
    """A row for each word in each split, and one for each split: medians."""
    columns = ("word", "split", "clips", "s", "level", "floor", "kHz", "clipped", "offset")
    table = Table(*columns, title="how clips were recorded")
    table.columns[0].overflow = "fold"
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    last = None
    for word, split, values in _groups(conditions, words):
        if word != last and (last is None or word == _ALL):
            table.add_section()
        table.add_row(word if word != last else "", split, f"{len(values):,}", *_cells(values))
        last = word
    table.caption = (
        "medians; level: of the loud frames, floor: of the pauses, dB of full scale; kHz: where the spectrum is cut "
        "off (8: nowhere); clipped: share of the samples; offset: DC, of full scale"
    )
    return table


def sample_line(conditions: Conditions) -> str:
    """How many clips were measured."""
    count = len(conditions.words)
    if count == conditions.total:
        return f"all {count:,} clips were measured"
    return f"{count:,} of {conditions.total:,} clips were measured, a random sample of each word and split"


def source_lines(sources: SourceFormats) -> list[str]:
    """The formats of the source files: one line for each, with the words that have it where not all words do."""
    kinds = collections.Counter[str]()
    having: dict[str, set[str]] = {}
    for (word, _), counts in sources.items():
        kinds.update(counts)
        for kind in counts:
            having.setdefault(kind, set()).add(word)
    all_words = {word for word, _ in sources}
    lines = []
    for kind, clips in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:_FORMATS_SHOWN]:
        only = "" if having[kind] == all_words else f", of {_some(sorted(having[kind]))}"
        lines.append(f"source files: {kind}: {clips:,} clips{only}")
    others = len(kinds) - len(lines)
    return lines + ([f"source files: {others} more formats (--json lists all)"] if others else [])


def _some(words: Sequence[str]) -> str:
    """The first of the words, and how many others there are."""
    others = len(words) - _WORDS_SHOWN
    return ", ".join(words[:_WORDS_SHOWN]) + (f" and {others} more words" if others > 0 else "")


def conditions_facts(
    conditions: Conditions, words: Sequence[str], sources: SourceFormats, leaks: Sequence[Leak]
) -> dict[str, Any]:
    """Medians by word and split, source formats by word and split, and what gives a word or a split away."""
    medians: dict[str, dict[str, Any]] = {}
    for word, split, values in _groups(conditions, words):
        medians.setdefault(word, {})[split] = {"clips": len(values)} | _medians(values)
    formats: dict[str, dict[str, Any]] = {}
    for (word, split), counts in sources.items():
        formats.setdefault(word, {})[split] = dict(counts)
    return {
        "measured": len(conditions.words), "clips": conditions.total,
        "splits": medians.pop(_ALL, {}), "words": medians, "sources": formats,
        "warnings": [dataclasses.asdict(leak) | {"text": str(leak)} for leak in leaks],
    }  # fmt: skip


def _groups(conditions: Conditions, words: Sequence[str]) -> Iterator[tuple[str, str, Values]]:
    """(word, split, values) of each word in each split, then of each split."""
    names = [split for split in ("train", "valid", "test") if (conditions.splits == split).any()]
    for number, word in enumerate(words):
        for split in names:
            chosen = (conditions.words == number) & (conditions.splits == split)
            if chosen.any():
                yield word, split, conditions.values[chosen]
    for split in names:
        yield _ALL, split, conditions.values[conditions.splits == split]


def _medians(values: Values) -> dict[str, float | None]:
    """The median of each measure; None where it is known for no clip."""
    known = [column[~np.isnan(column)] for column in values.T]
    return {name: float(np.median(part)) if len(part) else None for name, part in zip(MEASURES, known, strict=True)}


def _cells(values: Values) -> list[str]:
    medians = _medians(values)

    def shown(name: str, form: str, scale: float = 1.0) -> str:
        median = medians[name]
        return "" if median is None else format(median * scale, form)

    return [
        shown("length_s", ".2f"), shown("level_db", ".0f"), shown("floor_db", ".0f"),
        shown("bandwidth_hz", ".1f", 1e-3), shown("clipped", ".1%"), shown("offset", "+.1%"),
    ]  # fmt: skip
