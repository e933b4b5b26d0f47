"""A long recording with a label track beside it, as clips: one a label, grown to a second where there is room.

day1.flac + day1.txt (Audacity: START <tab> END <tab> LABEL) -> labels -> cuts (word, from where to where)
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kws.corpus.recording import NOISE_FOLDER, Span, bytes_of, cannot_read, word_of
from kws.errors import UsageError, mistakes_error

CLIP_S, PRAAT = 1.0, ".TextGrid"
_ROUNDING_S = 0.05
_TWO_NUMBERS = re.compile(r"^\s*-?\d[\d.,]*\s+-?\d[\d.,]*(\s|$)", re.MULTILINE)


class Label(NamedTuple):
    """`where` names file and place; times in seconds, equal at a point; `word` is "" where nothing is written."""

    where: str
    start: float
    end: float
    word: str


def beside(recording: Path) -> Path | None:
    """The recording's label track: its .TextGrid, or its .txt if a line starts with two numbers (others are texts)."""
    grid, track = recording.with_suffix(PRAAT), recording.with_suffix(".txt")
    if grid.is_file():
        return grid
    if not track.is_file():
        return None
    return track if _TWO_NUMBERS.search(bytes_of(track).decode("utf-8", errors="replace")) else None


def read(track: Path, length_s: float) -> list[Label]:
    """The labels of a recording of that length, by their start. Raises UsageError with every mistake of the track."""
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
    """Each line of Audacity's with its fields, but for those that are a label's frequencies."""
    try:
        text = bytes_of(track).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{track}: not UTF-8; wanted a label track as Audacity exports it") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("\\"):
            yield f"{track}:{number}", line.rstrip("\r").split("\t", 2)


def _intervals(track: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """Each interval or point of Praat's that has a text: of the only tier, or of the one of words."""
    from praatio import textgrid  # type: ignore[import-untyped]
    from praatio.utilities.errors import PraatioException  # type: ignore[import-untyped]

    try:
        tiers = textgrid.openTextgrid(str(track), includeEmptyIntervals=False).tiers
    except OSError as error:
        cannot_read(error)
    except (PraatioException, LookupError, ValueError) as error:
        raise UsageError(f"{track}: no TextGrid that can be read ({error}); wanted one as Praat saves it") from error
    chosen = tiers if len(tiers) == 1 else [tier for tier in tiers if tier.name.lower() in ("word", "words")]
    if len(chosen) != 1:
        found = ", ".join(tier.name for tier in tiers) or "none"
        raise UsageError(f"{track}: the tiers {found}; wanted a single one, or one that is called words")
    for *times, text in chosen[0].entries:
        yield f"{track}: at {times[0]:g} s", [str(times[0]), str(times[-1]), text]


def cuts(labels: Sequence[Label], length_s: float) -> Iterator[tuple[str, Span]]:
    """Words and spans of the clips that labels in order give of a recording of that length.

    A clip is a second around its label's middle, but ends half way to the next label and where the recording does. A
    longer label stays whole, and so does noise: what is around it is none.
    """
    ended = 0.0
    ends = list(itertools.accumulate((label.end for label in labels), max))
    for number, label in enumerate(labels):
        follows = labels[number + 1].start if number + 1 < len(labels) else math.inf
        before = (ended + label.start) / 2 if number else 0.0
        after = min((label.end + follows) / 2, length_s)
        middle, half = (label.start + label.end) / 2, 0.0 if label.word == NOISE_FOLDER else CLIP_S / 2
        ended = ends[number]
        if label.word:
            start = min(label.start, max(middle - half, before))
            yield label.word, (start, max(min(label.end, length_s), min(middle + half, after)))


def seconds_of(text: str) -> float:
    """A time as programs write it. Raises ValueError for what is none."""
    try:
        seconds = float(text.strip().replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"the time {text.strip()!r}; wanted seconds, such as 12.5")
    return seconds


def _label(where: str, fields: Sequence[str], length_s: float) -> Label:
    """Raises ValueError with what is wrong of it."""
    if len(fields) < 2:
        raise ValueError(f"found {fields[0].strip()[:40]!r}; wanted START, END and LABEL with tabs between them")
    start, end = seconds_of(fields[0]), seconds_of(fields[1])
    label = fields[2].strip() if fields[2:] else ""
    word = word_of(label) if label else ""
    if not 0 <= start <= end:
        raise ValueError(f"from {start:g} to {end:g} s; wanted 0 or more, and an end after the start")
    if start == end and word == NOISE_FOLDER:
        raise ValueError("noise at a point; wanted a label from where to where it lasts")
    if start >= length_s or end > length_s + _ROUNDING_S:
        raise ValueError(f"to {end:g} s; wanted labels of this recording, which has {length_s:.2f} s")
    return Label(where, start, end, word)
