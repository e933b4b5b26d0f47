"""CSV and TSV files: a header line, then one recording a line. Separated by comma, semicolon, tab or |.

    path,word,speaker,split,start,end -> RawRow

The usual names of columns are known (kws.corpus.tables.columns), in upper or lower case; other columns are ignored.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from kws.corpus.split_names import split_called
from kws.corpus.tables import columns, text
from kws.corpus.tables.columns import Columns
from kws.corpus.tables.place import Place
from kws.corpus.tables.table import RawRow, Table
from kws.errors import UsageError

ENDINGS = frozenset({".csv", ".tsv"})
_SEPARATORS = ",;\t|"
_SAMPLED_ROWS = 50
WANTED = (
    "wanted a first line with path and word, and perhaps speaker, split, start and end, separated by commas, "
    "semicolons or tabs"
)


@dataclasses.dataclass(frozen=True)
class Header:
    """The header line of a CSV file: its names in lower case, their separator, the line after it, and what they
    hold."""

    names: tuple[str, ...]
    separator: str
    line: int
    columns: Columns


@dataclasses.dataclass
class CsvTable(Table):
    """A CSV or TSV file. Raises UsageError where its header names no audio or no words."""

    kind: ClassVar[str] = "CSV"
    may_repeat: ClassVar[bool] = False
    quoting: ClassVar[int] = csv.QUOTE_MINIMAL

    def __post_init__(self) -> None:
        self.header = read_header(self.place, self.path, self.quoting)
        self.is_text = self.header.columns.is_text
        if described := self.header.columns.described:
            self.notes.append(f"{self.name}: {described}")

    def raw_rows(self, with_audio: bool = True) -> Iterator[RawRow]:
        """All rows. Raises UsageError for wrong quotes and for text that is not UTF-8."""
        header, number = self.header, len(self.header.names)
        pick = _picker(header)
        for line, cells in self._lines():
            if len(cells) < number:
                cells += [""] * (number - len(cells))
            elif len(cells) > number and any(cell.strip() for cell in cells[number:]):
                what = f"{len(cells)} values, {number} columns; quote values that contain the separator"
                yield RawRow(line, "", "", mistake=what)
                continue
            yield self._row(line, pick(cells), cells)

    def _row(self, line: int, values: Sequence[str], cells: Sequence[str]) -> RawRow:
        """The row of these values; `cells`: of all columns, for subclasses."""
        return RawRow(line, *values)  # type: ignore[arg-type]  # texts: no row has more than seven

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Number and values of each non-empty line below the header. Raises UsageError for wrong quotes."""
        line = 0
        with text.open_text(self.place, self.path, newline="") as file:
            table = csv.reader(file, delimiter=self.header.separator, quoting=self.quoting, strict=True)  # type: ignore[arg-type]
            try:
                for cells in table:
                    first_line, line = line + 1, table.line_num
                    if first_line > self.header.line and any(map(str.strip, cells)):
                        yield first_line, cells
            except csv.Error as error:
                raise UsageError(
                    f"{self.name}:{line + 1}: {error}; wanted quotes that are closed on the line"
                ) from error
            except UnicodeDecodeError as error:
                text.raise_not_unicode(self.place, self.path, error)


@dataclasses.dataclass
class ReleasedTable(CsvTable):
    """A table of a released corpus: its audio is in clips/, and it may list clips that were not downloaded."""

    is_strict: ClassVar[bool] = False
    may_be_partial: ClassVar[bool] = True
    may_repeat: ClassVar[bool] = True
    audio_folder: ClassVar[str] = "clips"


def _picker(header: Header) -> Callable[[Sequence[str]], list[str]]:
    """Picks a row's values, in the order of RawRow's fields; "" for columns that the table lacks."""
    found = header.columns
    wanted = [found.audio, found.word, found.speaker, found.split, found.start, found.end, found.duration]
    while not wanted[-1]:
        wanted.pop()
    if all(wanted):
        get = operator.itemgetter(*map(header.names.index, wanted))
        return lambda cells: [value.strip() for value in get(cells)]
    places = [header.names.index(name) if name else None for name in wanted]
    return lambda cells: ["" if place is None else cells[place].strip() for place in places]


def read_header(place: Place, path: str, quoting: int = csv.QUOTE_MINIMAL) -> Header:
    """The header of a CSV file. Raises UsageError where it names no audio or no words, or two columns for one thing."""
    lines = text.head(place, path)
    try:
        found = find_header(lines, quoting)
    except ValueError as error:
        raise UsageError(f"{place.name}/{path}:1: {error}; {WANTED}") from error
    if found is None:
        raise UsageError(f"{place.name}/{path}:1: found {_first_line(lines)!r}; {WANTED}")
    return found


def _first_line(lines: str) -> str:
    return next(iter(lines.splitlines()), "")[:60]


def find_header(lines: str, quoting: int = csv.QUOTE_MINIMAL) -> Header | None:
    """The header of a CSV file that begins with these lines; None where it is none. Raises ValueError for two columns
    that could both be one thing."""
    first_line, skipped = 1, ""
    for skipped in lines.splitlines()[:1]:
        if skipped.lower().startswith("sep=") and len(skipped) <= 5:  # Excel's
            first_line = 2
    for separator in _SEPARATORS:
        rows = _parse(lines, separator, quoting)[first_line - 1 :]
        names = tuple(cell.strip().lower() for cell in rows[0]) if rows else ()
        sample = [dict(zip(names, row, strict=False)) for row in rows[1:]]
        found = columns.choose(names, sample)
        if found:
            _check_unique(names, found)
            return Header(names, separator, first_line, _without_other_sets(found, sample))
    return None


def _parse(lines: str, separator: str, quoting: int) -> list[list[str]]:
    """The first rows; fewer where one is cut or damaged."""
    rows = list[list[str]]()
    reader = csv.reader(lines.splitlines(keepends=True), delimiter=separator, quoting=quoting)  # type: ignore[arg-type]
    with contextlib.suppress(csv.Error):
        rows += itertools.islice(reader, _SAMPLED_ROWS)
    return rows


def _check_unique(names: Sequence[str], found: Columns) -> None:
    for name in dataclasses.astuple(found):
        if name and name is not True and names.count(name) > 1:
            raise ValueError(f"column {name} appears twice")


def _without_other_sets(found: Columns, rows: Sequence[Mapping[str, str]]) -> Columns:
    """The columns, without one named set, subset or partition that holds something else than splits."""
    if found.split in ("", "split"):
        return found
    if any(split_called(row.get(found.split, "").strip()) for row in rows):
        return found
    return dataclasses.replace(found, split="")
