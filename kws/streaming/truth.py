"""What was spoken in the recordings: read from label tracks and tables.

day1.txt (Audacity), day1.TextGrid (Praat)      the labels of one recording
a folder of such tracks                         day1.txt belongs to day1.flac
labels.csv: file,word,start,end                 the labels of many recordings
    -> Truth: the words of each recording that the network has, and notes about all other labels
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

from kws.corpus import label_track
from kws.corpus.label_track import Label
from kws.corpus.tables import csv_table
from kws.corpus.tables.csv_table import CsvTable
from kws.corpus.tables.place import Folder
from kws.corpus.tables.table import RawRow
from kws.errors import UsageError, close_names, mistakes_error
from kws.streaming.counting import Spoken
from kws.streaming.events import words_of

_ROUNDING_S = 0.05
"""A label may end so much after the recording, as in kws/corpus/label_track.py."""
_NAMED = 5
"""The most words that a note names."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """The words of each recording, sorted by start, and a line for everything that was left out or assumed."""

    labels: Mapping[Path, Sequence[Label]]
    notes: Sequence[str]

    def spoken(self, recording: Path, duration_s: float) -> list[Spoken]:
        """The words of a recording of that duration. Raises UsageError for labels after its end."""
        labels = self.labels[recording]
        late = [label for label in labels if label.start >= duration_s or label.end > duration_s + _ROUNDING_S]
        if late:
            where, _, end, word = late[0]
            more = f" (and {len(late) - 1} more labels)" if late[1:] else ""
            raise UsageError(
                f"{where}: {word} to {end:g} s{more}; wanted labels of {recording}, which has {duration_s:.2f} s"
            )
        return [Spoken(label.word, label.start, label.end) for label in labels]


def read(source: Path, recordings: Sequence[Path], classes: Sequence[str]) -> Truth:
    """Reads the labels of the recordings. Raises UsageError that lists every mistake.

    Labels of words that are no events of a network with these classes are left out, and counted in a note.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder; wanted label tracks or a CSV with file,word,start,end")
    if source.is_dir():
        labels, notes = _from_folder(source, recordings)
    elif source.suffix.lower() in csv_table.ENDINGS:
        labels, notes = _from_table(source, recordings)
    elif len(recordings) == 1:
        labels, notes = {recordings[0]: label_track.read(source, math.inf)}, []
    else:
        raise UsageError(
            f"{source}: one label track cannot be that of {len(recordings)} recordings; wanted a folder with a "
            "track for each, or a CSV with file,word,start,end"
        )
    kept = {recording: _sorted(labels.get(recording, [])) for recording in recordings}
    words = set(words_of(classes))
    of_words = {recording: [label for label in all_ if label.word in words] for recording, all_ in kept.items()}
    found = [label for all_ in kept.values() for label in all_]
    return Truth(of_words, [*notes, *_label_notes(source, found, words_of(classes))])


def _sorted(labels: Sequence[Label]) -> list[Label]:
    return sorted(labels, key=lambda label: (label.start, label.end))


def _from_folder(folder: Path, recordings: Sequence[Path]) -> tuple[dict[Path, list[Label]], list[str]]:
    tracks = {recording: _find_track(folder, recording) for recording in recordings}
    found = {recording: track for recording, track in tracks.items() if track}
    if not found:
        raise UsageError(f"{folder}: no label track of any recording; wanted {recordings[0].stem}.txt or .TextGrid")
    twice = [track for track, count in Counter(found.values()).items() if count > 1]
    if twice:
        names = " and ".join(str(recording) for recording, track in found.items() if track == twice[0])
        raise UsageError(
            f"{twice[0]}: is it of {names}? wanted recordings of different names, or a CSV with their paths"
        )
    labels = {recording: label_track.read(track, math.inf) for recording, track in found.items()}
    return labels, _unlabelled(folder, [recording for recording in recordings if recording not in found])


def _find_track(folder: Path, recording: Path) -> Path | None:
    """The track beside a recording that is in the folder or below, else the track of its name in the folder."""
    inside = recording.resolve().is_relative_to(folder.resolve())
    return (label_track.find_track(recording) if inside else None) or label_track.find_track(folder / recording.name)


def _unlabelled(source: Path, recordings: Sequence[Path]) -> list[str]:
    if not recordings:
        return []
    names = ", ".join(recording.name for recording in recordings[:_NAMED])
    more = ", ..." if recordings[_NAMED:] else ""
    return [f"{source}: no labels of {len(recordings)} recordings ({names}{more}); all their events are false accepts"]


def _from_table(path: Path, recordings: Sequence[Path]) -> tuple[dict[Path, list[Label]], list[str]]:
    table, find = CsvTable(Folder(path.parent), path.name), _recording_finder(path.parent, recordings)
    labels, mistakes, foreign = dict[Path, list[Label]](), list[str](), Counter[str]()
    for row in table.raw_rows():
        try:
            label = _label_of_row(table.where(row.line), row)
        except ValueError as error:
            mistakes.append(f"{table.where(row.line)}: {error}")
            continue
        recording = find(row.audio)
        if recording is None:
            foreign[row.audio] += 1
        else:
            labels.setdefault(recording, []).append(label)
    if mistakes:
        raise mistakes_error(mistakes)
    if foreign and not labels:
        raise UsageError(
            f"{path}: labels of {next(iter(foreign))}, none of {recordings[0]}; wanted the names of the recordings in "
            "the first column, relative to the folder of the table"
        )
    notes = [f"{path}: {foreign.total()} labels of {len(foreign)} other recordings left out"] if foreign else []
    missing = [recording for recording in recordings if recording not in labels]
    return labels, [*table.notes, *notes, *_unlabelled(path, missing)]


def _label_of_row(where: str, row: RawRow) -> Label:
    """The label of a row. Raises ValueError with the reason."""
    if row.mistake:
        raise ValueError(row.mistake)
    start = label_track.parse_seconds(row.start)
    end = start + label_track.parse_seconds(row.duration) if row.duration else label_track.parse_seconds(row.end)
    return label_track.label_of(where, start, end, row.word)


def _recording_finder(folder: Path, recordings: Sequence[Path]) -> Callable[[str], Path | None]:
    """Finds a recording by its name in a table: a path relative to the table's folder, or the end of its path, with or
    without the ending; None where no recording, or more than one, has the name."""
    by_path = {recording.resolve(): recording for recording in recordings}
    by_end: dict[tuple[str, ...], list[Path]] = {}
    for recording in recordings:
        for ends in _path_ends(recording):
            by_end.setdefault(ends, []).append(recording)

    def find(name: str) -> Path | None:
        same = by_path.get((folder / name).resolve())
        ends = by_end.get(PurePath(name).parts, [])
        return same or (ends[0] if len(ends) == 1 else None)

    return find


def _path_ends(recording: Path) -> Iterator[tuple[str, ...]]:
    for parts in (recording.parts, recording.with_suffix("").parts if recording.suffix else ()):
        yield from (parts[first:] for first in range(len(parts)))


def _label_notes(source: Path, labels: Sequence[Label], words: Sequence[str]) -> Iterator[str]:
    empty = sum(not label.word for label in labels)
    if empty:
        yield f"{source}: {empty} labels without a word left out"
    other = Counter(label.word for label in labels if label.word and label.word not in words)
    if other:
        named = ", ".join(f"{word} {count}" for word, count in other.most_common(_NAMED))
        more = ", ..." if len(other) > _NAMED else ""
        near = next((found for word, _ in other.most_common() for found in close_names(word, words, most=1)), "")
        hint = f"; did you mean {near}?" if near else ""
        yield (
            f"{source}: {other.total()} labels of {len(other)} words that the network does not detect ({named}{more}); "
            f"an event there is a false accept{hint}"
        )
    points = sum(label.word in words and label.start == label.end for label in labels)
    if points:
        yield f"{source}: {points} labels are points in time; each is taken as the start and the end of its word"
