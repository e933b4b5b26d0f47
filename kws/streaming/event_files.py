"""Events as files: a CSV of all recordings, and an Audacity label track beside each.

A label covers the window of audio whose score was an event, so that it plays the word; `kws pack` reads such tracks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kws import files
from kws.errors import UsageError, cannot_write
from kws.streaming.events import Event

TRACK_SUFFIX = ".events.txt"
COLUMNS = ("file", "time_s", "word", "probability")


def event_row(path: Path, event: Event) -> dict[str, Any]:
    """An event for CSV and JSON: time_s is the end of the audio that it depends on."""
    values = (str(path), round(event.time_s, 4), event.word, round(event.probability, 6))
    return dict(zip(COLUMNS, values, strict=True))


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Iterable[str] = COLUMNS) -> None:
    """Writes rows with these columns. Raises UsageError where the file cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n", extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(rows)
    _write(path, text.getvalue())


def write_track(recording: Path, events: Sequence[Event], window_s: float) -> Path:
    """Writes the label track beside a recording and returns its path. Raises UsageError where it cannot be written."""
    path = recording.with_name(recording.name + TRACK_SUFFIX)
    _write(path, "".join(track_line(event, window_s) for event in events))
    return path


def track_line(event: Event, window_s: float) -> str:
    """A line of an Audacity label track: start, end, word."""
    return f"{max(0.0, event.time_s - window_s):.6f}\t{event.time_s:.6f}\t{event.word}\n"


def _write(path: Path, text: str) -> None:
    try:
        files.write_bytes(path, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UsageError(cannot_write(path, error)) from error
