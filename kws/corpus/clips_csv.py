"""A table of clips: one's own recordings, a line each, wherever they lie.

    CSV (path, word, speaker, split, start, end) -> rows, checked -> names that are unique in the corpus

Separated by comma, semicolon or tab, UTF-8, with a header; columns of other names are not looked at.
"""

from __future__ import annotations

import collections
import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from kws.audio import codec
from kws.corpus.label_track import seconds_of
from kws.corpus.recording import NOISE_FOLDER, Span, bytes_of, composed, cut_name, word_of
from kws.errors import UsageError, mistakes_error

ENDINGS = frozenset({".csv", ".tsv"})
SPLITS = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
_COLUMNS = ("path", "word", "speaker", "split", "start", "end")
_WANTED = (
    "wanted a first line with path and word, and perhaps speaker, split, start and end, separated by commas, "
    "semicolons or tabs"
)


class Row(NamedTuple):
    """One line: the file, what is said in it, by whom ("": not said), in which split ("": not said)."""

    line: int
    path: Path
    word: str
    speaker: str
    split: str
    span: Span | None

    @property
    def file(self) -> str:
        """Its name without its folders."""
        return composed(self.path.name)

    @property
    def file_name(self) -> str:
        """The file's, with the span where there is one."""
        return cut_name(self.file, self.span) if self.span else self.file


def read(path: Path) -> list[Row]:
    """All rows. Raises UsageError with every mistake, each with its line."""
    text = _text(path)
    columns, separator = _header(path, text)
    rows, mistakes = list[Row](), list[str]()
    for line, cells in _lines(path, text, separator):
        try:
            rows.append(_row(path.parent, line, _values(columns, cells)))
        except ValueError as error:
            mistakes.append(f"{path}:{line}: {error}")
    mistakes += _said_twice(path, rows) + _without_split(path, rows)
    if mistakes:
        raise mistakes_error(mistakes)
    return rows


def names(rows: Sequence[Row]) -> list[str]:
    """WORD/FILE of each row; where two rows would share it, WORD/FOLDERS/FILE. In whatever order the rows are."""
    short = [f"{row.word}/{row.file_name}" for row in rows]
    shared = {name for name, count in collections.Counter(short).items() if count > 1}
    root = os.path.commonpath([row.path.parent for row in rows]) if rows else ""
    return [
        composed(str(PurePosixPath(row.word, row.path.parent.relative_to(root), row.file_name)))
        if name in shared
        else name
        for row, name in zip(rows, short, strict=True)
    ]


def _text(path: Path) -> str:
    data = bytes_of(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8; wanted the table saved as CSV in UTF-8") from error


def _lines(path: Path, text: str, separator: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Numbers and values of the lines below the header that have any. Raises UsageError where quotes are wrong."""
    table, line = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 0
    try:
        for cells in table:
            here, line = line + 1, table.line_num
            if here > 1 and any(cell.strip() for cell in cells):
                yield here, cells
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: {error}; wanted quotes that are closed on the line") from error


def _header(path: Path, text: str) -> tuple[list[str], str]:
    """The columns' names, and what separates them."""
    first = re.split(r"[\r\n]", text, maxsplit=1)[0][: csv.field_size_limit()]
    for separator in ",;\t":
        columns = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator), [])]
        if {"path", "word"} <= set(columns):
            twice = sorted(name for name in _COLUMNS if columns.count(name) > 1)
            if twice:
                raise UsageError(f"{path}:1: the column {twice[0]} twice; {_WANTED}")
            return columns, separator
    raise UsageError(f"{path}:1: found {first[:60]!r}; {_WANTED}")


def _values(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, str]:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ValueError(f"{len(cells)} values, {len(columns)} columns; quote what holds the separator")
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}


def _row(folder: Path, line: int, values: Mapping[str, str]) -> Row:
    """Raises ValueError with what is wrong of it."""
    given, word, speaker, split, start, end = (values.get(name, "") for name in _COLUMNS)
    if not given:
        raise ValueError("no path; wanted the audio file, seen from the table's folder")
    path = Path(os.path.normpath((folder / given).absolute()))  # not resolved: a link's name may say who speaks
    if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises where the name is too long
        raise ValueError(f"{given}: no such file; wanted a path seen from {folder}")
    if not codec.is_audio(path.name):
        raise ValueError(f"{given}: not a format that is read; convert it to wav or flac")
    if split and split.lower() not in SPLITS:
        raise ValueError(f"the split {split!r}; wanted train, valid or test")
    return Row(line, path, word_of(word), composed(speaker), SPLITS.get(split.lower(), ""), _span(start, end))


def _span(start: str, end: str) -> Span | None:
    if not start and not end:
        return None
    if not start or not end:
        raise ValueError("start or end alone; wanted both, in seconds, or neither")
    span = (seconds_of(start), seconds_of(end))
    if not 0 <= span[0] < span[1]:
        raise ValueError(f"from {start} to {end} s; wanted 0 or more, and an end after the start")
    return span


def _said_twice(path: Path, rows: Sequence[Row]) -> list[str]:
    """Lines that give the sound of an earlier one."""
    mistakes, first = list[str](), dict[tuple[Path, Span | None], Row]()
    for row in rows:
        before = first.setdefault((row.path, row.span), row)
        if before is not row:
            word = "" if before.word == row.word else f", as {before.word!r}"
            mistakes.append(f"{path}:{row.line}: {row.file_name} is in line {before.line} already{word}; remove one")
    return mistakes


def _without_split(path: Path, rows: Sequence[Row]) -> list[str]:
    """Lines without a split, where others have one: what they are for would be a guess."""
    words = [row for row in rows if row.word != NOISE_FOLDER]
    with_one = next((row for row in words if row.split), None)
    return [
        f"{path}:{row.line}: no split, but line {with_one.line} has one; wanted one in every line or in none"
        for row in words
        if with_one and not row.split
    ]
