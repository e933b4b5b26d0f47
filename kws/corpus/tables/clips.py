"""The clips that one or several tables list, checked. Tables are read twice, so that memory stays small.

first reading: every row checked, what repeats, where the audio files are   (kws.corpus.tables.survey)
second reading: Clip, Clip, ...; rows that are left out go to `leave_out`, with the reason
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from kws.audio import formats
from kws.corpus.recording import Span, excerpt_name, speaker_from_name, speaker_of_long_recording, to_nfc
from kws.corpus.tables.survey import Entry, Survey, audio_key, name_key, survey
from kws.corpus.tables.table import RawRow, Table


class Clip(NamedTuple):
    """A row whose audio is there.

    table: its path. name: WORD/FILE, unique among the tables read together. path: of the audio file, in the tables'
    place; "" where `data` has the bytes. speaker: "" if unknown. split: "" if not given.
    """

    table: str
    name: str
    path: str
    data: bytes | None
    speaker: str
    split: str
    span: Span | None


class LeftOut(NamedTuple):
    """A row that gives no clip. where: the table and its line. audio: as written there; path: in the place. is_fault:
    somebody should look at it; else it is as the table's makers meant it."""

    where: str
    audio: str
    path: str
    reason: str
    is_fault: bool


@dataclasses.dataclass
class Clips:
    """The clips of tables that lie in the same place."""

    tables: Sequence[Table]

    @functools.cached_property
    def survey(self) -> Survey:
        """The first reading. Raises UsageError for mistakes in a table, for a table without keywords, and where no
        audio file is found."""
        return survey(self.tables)

    def read(self, leave_out: Callable[[LeftOut], None] = lambda row: None) -> Iterator[Clip]:
        """The second reading: all clips; `leave_out` is called with rows that give none. Raises UsageError as above."""
        found, first_of = self.survey, dict[int, tuple[str, Entry]]()
        for table in self.tables:
            for raw in table.raw_rows():
                entry, reason, is_fault = found.read(table, raw)
                if entry and not reason:
                    reason, is_fault = _repetition(table, raw, entry, found, first_of)
                if entry and not reason:
                    reason, is_fault = _missing(table, raw, entry)
                if entry is None or reason:
                    path = entry.path if entry else found.path(table, raw)
                    leave_out(LeftOut(table.where(raw.line), raw.audio, path, reason, is_fault))
                else:
                    yield _clip(table, raw, entry, found)


def _missing(table: Table, raw: RawRow, entry: Entry) -> tuple[str, bool]:
    """Why a row's audio cannot be used, and whether that is a fault; ("", False) if it can be."""
    if raw.data is not None:
        return "", False
    if not table.place.is_file(entry.path):
        return "no such file", not table.may_be_partial
    if formats.name_kind(entry.path) == "other":
        return "not a supported format; convert it to wav or flac", True
    return "", False


def _repetition(
    table: Table, raw: RawRow, entry: Entry, found: Survey, first_of: dict[int, tuple[str, Entry]]
) -> tuple[str, bool]:
    """Why a row that repeats an earlier one is left out, and whether that is a fault; ("", False) for the first."""
    if raw.data is not None or not found.repeated_audio or (key := audio_key(entry)) not in found.repeated_audio:
        return "", False
    where, first = first_of.setdefault(key, (table.where(raw.line), entry))
    if first is entry:
        return "", False
    if (first.word, first.split) == (entry.word, entry.split):
        return "listed more than once, packed once", False
    other = first.word if first.word != entry.word else first.split or "no split"
    return f"is in {where} already, as {other}", True


def _clip(table: Table, raw: RawRow, entry: Entry, found: Survey) -> Clip:
    file = to_nfc(entry.path.rpartition("/")[2])
    base = excerpt_name(file, entry.span) if entry.span else file
    word = found.word_of_number.get(entry.word, entry.word)
    name = f"{word}/{base}"
    if found.repeated_names and name_key(entry) in found.repeated_names:
        name = _longer_name(table, raw, entry, found.root, name)
    # yes_anna_nohash_0.wav, from a folder whose word folders were put together, is by anna as no_anna_nohash_0.wav is.
    speaker = entry.speaker or (speaker_of_long_recording if entry.span else speaker_from_name)(
        file.removeprefix(f"{word}_")
    )
    return Clip(
        table.name, name, "" if raw.data is not None else entry.path, raw.data, speaker, entry.split,
        entry.span,
    )  # fmt: skip


def _longer_name(table: Table, raw: RawRow, entry: Entry, root: str, short: str) -> str:
    """WORD/FOLDERS/FILE, for a clip whose WORD/FILE another one has too; `root` is the folder of all audio files."""
    word, _, base = short.partition("/")
    if raw.data is not None:  # names inside a Parquet file may repeat
        folders = f"{posixpath.splitext(table.path)[0]}/{raw.line}"
    else:
        folders = posixpath.relpath("/" + posixpath.dirname(entry.path), "/" + root)
    return to_nfc(posixpath.normpath(f"{word}/{folders}/{base}"))


@dataclasses.dataclass
class LeftOutCounts:
    """Counts rows that are left out, by table and reason, and keeps the first of each as an example."""

    counts: dict[tuple[str, str, bool], list[LeftOut]] = dataclasses.field(default_factory=dict)
    totals: collections.Counter[tuple[str, str, bool]] = dataclasses.field(default_factory=collections.Counter)

    def add(self, row: LeftOut) -> None:
        """Counts one row."""
        key = (row.where.rpartition(":")[0], row.reason, row.is_fault)
        self.totals[key] += 1
        self.counts.setdefault(key, []).append(row) if self.totals[key] <= 3 else None

    def lines(self, faults: bool) -> list[str]:
        """A line for each reason: the faults, or what is no fault."""
        return [
            f"{table}: {count:,} {'row' if count == 1 else 'rows'} left out: {reason} ({_examples(self.counts[key])}"
            f"{', ...' if count > 3 else ''})"
            for key, count in self.totals.items()
            for table, reason, is_fault in [key]
            if is_fault == faults
        ]


def _examples(rows: Sequence[LeftOut]) -> str:
    """line 3: a.wav, line 9: b.wav"""
    return ", ".join(f"line {row.where.rpartition(':')[2]}: {row.audio}" for row in rows)
