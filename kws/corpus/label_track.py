"""Long recordings with a label track: an excerpt for each label, extended to one second where there is room.

day1.flac + day1.txt (Audacity: START <tab> END <tab> LABEL) or day1.TextGrid (Praat) -> labels -> (word, start, end)
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kws.corpus.recording import NOISE_FOLDER, Span, parse_word, raise_unreadable, read_file
from kws.errors import UsageError, mistakes_error

CLIP_S, PRAAT = 1.0, ".TextGrid"
_ROUNDING_S = 0.05
_TWO_NUMBERS = re.compile(r"^\s*-?\d[\d.,]*\s+-?\d[\d.,]*(\s|$)", re.MULTILINE)


class Label(NamedTuple):
    """`where`: file and position, for messages. Times in seconds, equal for a point label. `word`: "" for an empty
    label."""

    where: str
    start: float
    end: float
    word: str


def find_track(recording: Path) -> Path | None:
    """The label track beside a recording: its .TextGrid, or its .txt if a line starts with two numbers; None if there
    is none."""
    grid, track = recording.with_suffix(PRAAT), recording.with_suffix(".txt")
    if grid.is_file():
        return grid
    if not track.is_file():
        return None
    return track if _TWO_NUMBERS.search(read_file(track).decode("utf-8", errors="replace")) else None


def read(track: Path, length_s: float) -> list[Label]:
    """The labels of a recording of that length, sorted by start. Raises UsageError that lists every mistake."""
    labels, mistakes = list[Label](), list[str]()
    for where, fields in _intervals(track) if track.suffix == PRAAT else _lines(track):
        try:
            labels.append(_label(where, fields, length_s))
        except ValueError as error:
            mistakes.append(f"{where}: {error}")
    if mistakes:
        raise mistakes_error(mistakes)
    return sorted(labels, key=lambda label: (label.start, label.end))


def _lines(track: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Position and fields of each line of an Audacity track, without the lines that hold a label's frequencies."""
    try:
        text = read_file(track).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{track}: not UTF-8; wanted a label track as Audacity exports it") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("\\"):
            yield f"{track}:{number}", line.rstrip("\r").split("\t", 2)


def _intervals(track: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Position and fields of each non-empty interval or point of a Praat track: of its only tier, or the one named
    words."""
    try:
        from praatio import textgrid  # type: ignore[import-untyped]
        from praatio.utilities.errors import PraatioException  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError(f"{track}: reading TextGrids needs the package praatio: pip install praatio") from error
    try:
        tiers = textgrid.openTextgrid(str(track), includeEmptyIntervals=False).tiers
    except OSError as error:
        raise_unreadable(error, track)
    except (PraatioException, LookupError, ValueError) as error:
        raise UsageError(f"{track}: not a readable TextGrid ({error}); wanted one as Praat saves it") from error
    chosen = tiers if len(tiers) == 1 else [tier for tier in tiers if tier.name.lower() in ("word", "words")]
    if len(chosen) != 1:
        found = ", ".join(tier.name for tier in tiers) or "none"
        raise UsageError(f"{track}: found the tiers {found}; wanted a single tier, or one named words")
    for *times, text in chosen[0].entries:
        yield f"{track}: at {times[0]:g} s", [str(times[0]), str(times[-1]), text]


def clip_spans(labels: Sequence[Label], length_s: float) -> Iterator[tuple[str, Span]]:
    """Words and spans of the excerpts for `labels` (sorted by start), in a recording of that length.

    An excerpt is one second around the middle of its label. It ends half way to the neighbouring labels and at the ends
    of the recording. A label longer than a second gives an excerpt of its own length, and so does a label of noise.
    """
    previous_end = 0.0
    ends = list(itertools.accumulate((label.end for label in labels), max))
    for number, label in enumerate(labels):
        next_start = labels[number + 1].start if number + 1 < len(labels) else math.inf
        before = (previous_end + label.start) / 2 if number else 0.0
        after = min((label.end + next_start) / 2, length_s)
        middle, half = (label.start + label.end) / 2, 0.0 if label.word == NOISE_FOLDER else CLIP_S / 2
        previous_end = ends[number]
        if label.word:
            start = min(label.start, max(middle - half, before))
            yield label.word, (start, max(min(label.end, length_s), min(middle + half, after)))


def parse_seconds(text: str) -> float:
    """A time in seconds from text; the decimal mark may be a comma. Raises ValueError for anything else."""
    try:
        seconds = float(text.strip().replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"the time {text.strip()!r}; wanted seconds, such as 12.5")
    return seconds


def _label(where: str, fields: Sequence[str], length_s: float) -> Label:
    """The label. Raises ValueError with the reason."""
    if len(fields) < 2:
        raise ValueError(f"found {fields[0].strip()[:40]!r}; wanted START, END and LABEL with tabs between them")
    label = label_of(where, parse_seconds(fields[0]), parse_seconds(fields[1]), fields[2] if fields[2:] else "")
    if label.start == label.end and label.word == NOISE_FOLDER:
        raise ValueError("a point label for noise; wanted a label with start and end")
    if label.start >= length_s or label.end > length_s + _ROUNDING_S:
        raise ValueError(f"to {label.end:g} s; wanted labels of this recording, which has {length_s:.2f} s")
    return label


def label_of(where: str, start: float, end: float, text: str) -> Label:
    """The label with that text, "" for an empty one. Raises ValueError for wrong times or an invalid word."""
    word = parse_word(text) if text.strip() else ""
    if not 0 <= start <= end:
        raise ValueError(f"from {start:g} to {end:g} s; wanted 0 or more, and an end after the start")
    return Label(where, start, end, word)
