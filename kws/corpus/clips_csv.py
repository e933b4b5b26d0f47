"""Recordings listed in a CSV file, one a line.

    CSV (path, word, speaker, split, start, end) -> checked rows -> a unique name for each

UTF-8, separated by comma, semicolon or tab, with a header line. Other columns are ignored.
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
from kws.corpus.label_track import parse_seconds
from kws.corpus.recording import NOISE_FOLDER, Span, excerpt_name, parse_word, read_file, to_nfc
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
    """One line: file, word, speaker ("": not given), split ("": not given), and the excerpt (None: the whole file)."""

    line: int
    path: Path
    word: str
    speaker: str
    split: str
    span: Span | None

    @property
    def file(self) -> str:
        """The file's name without its folders."""
        return to_nfc(self.path.name)

    @property
    def file_name(self) -> str:
        """The name of the clip: the file's, with the excerpt's start and end where there is one."""
        return excerpt_name(self.file, self.span) if self.span else self.file


def read(path: Path) -> list[Row]:
    """All rows. Raises UsageError that lists every mistake with its line."""
    text = _text(path)
    columns, separator = _header(path, text)
    rows, mistakes = list[Row](), list[str]()
    for line, cells in _lines(path, text, separator):
        try:
            rows.append(_row(path.parent, line, _values(columns, cells)))
        except ValueError as error:
            mistakes.append(f"{path}:{line}: {error}")
    mistakes += _duplicates(path, rows) + _missing_splits(path, rows)
    if mistakes:
        raise mistakes_error(mistakes)
    return rows


def unique_names(rows: Sequence[Row]) -> list[str]:
    """WORD/FILE for each row; WORD/FOLDERS/FILE where several rows would share that. Independent of the rows' order."""
    short = [f"{row.word}/{row.file_name}" for row in rows]
    shared = {name for name, count in collections.Counter(short).items() if count > 1}
    root = os.path.commonpath([row.path.parent for row in rows]) if rows else ""
    return [
        to_nfc(str(PurePosixPath(row.word, row.path.parent.relative_to(root), row.file_name)))
        if name in shared
        else name
        for row, name in zip(rows, short, strict=True)
    ]


def _text(path: Path) -> str:
    data = read_file(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8; wanted the table saved as CSV in UTF-8") from error


def _lines(path: Path, text: str, separator: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Number and values of each non-empty line below the header. Raises UsageError for wrong quotes."""
    table, line = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 0
    try:
        for cells in table:
            first_line, line = line + 1, table.line_num
            if first_line > 1 and any(cell.strip() for cell in cells):
                yield first_line, cells
    except csv.Error as error:
        raise UsageError(f"{path}:{line + 1}: {error}; wanted quotes that are closed on the line") from error


def _header(path: Path, text: str) -> tuple[list[str], str]:
    """The names of the columns, and the separator. Raises UsageError for a header without path and word."""
    first = re.split(r"[\r\n]", text, maxsplit=1)[0][: csv.field_size_limit()]
    for separator in ",;\t":
        columns = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator), [])]
        if {"path", "word"} <= set(columns):
            repeated = sorted(name for name in _COLUMNS if columns.count(name) > 1)
            if repeated:
                raise UsageError(f"{path}:1: column {repeated[0]} appears twice; {_WANTED}")
            return columns, separator
    raise UsageError(f"{path}:1: found {first[:60]!r}; {_WANTED}")


def _values(columns: Sequence[str], cells: Sequence[str]) -> Mapping[str, str]:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ValueError(f"{len(cells)} values, {len(columns)} columns; quote values that contain the separator")
    return {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}


def _row(folder: Path, line: int, values: Mapping[str, str]) -> Row:
    """The row. Raises ValueError that says what is wrong."""
    given, word, speaker, split, start, end = (values.get(name, "") for name in _COLUMNS)
    if not given:
        raise ValueError("no path; wanted the audio file, relative to the CSV's folder")
    path = Path(
        os.path.normpath((folder / given).absolute())
    )  # links are not resolved: a link's name may contain the speaker
    if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises where the name is too long
        raise ValueError(f"{given}: no such file; wanted a path relative to {folder}")
    if not codec.is_audio(path.name):
        raise ValueError(f"{given}: not a supported format; convert it to wav or flac")
    if split and split.lower() not in SPLITS:
        raise ValueError(f"the split {split!r}; wanted train, valid or test")
    return Row(line, path, parse_word(word), to_nfc(speaker), SPLITS.get(split.lower(), ""), _span(start, end))


def _span(start: str, end: str) -> Span | None:
    if not start and not end:
        return None
    if not start or not end:
        raise ValueError("only one of start and end; wanted both, in seconds, or neither")
    span = (parse_seconds(start), parse_seconds(end))
    if not 0 <= span[0] < span[1]:
        raise ValueError(f"from {start} to {end} s; wanted 0 or more, and an end after the start")
    return span


def _duplicates(path: Path, rows: Sequence[Row]) -> list[str]:
    """Mistakes: lines with the same audio as an earlier line."""
    mistakes, first = list[str](), dict[tuple[Path, Span | None], Row]()
    for row in rows:
        before = first.setdefault((row.path, row.span), row)
        if before is not row:
            word = "" if before.word == row.word else f", as {before.word!r}"
            mistakes.append(f"{path}:{row.line}: {row.file_name} is already in line {before.line}{word}; remove one")
    return mistakes


def _missing_splits(path: Path, rows: Sequence[Row]) -> list[str]:
    """Mistakes: lines without a split, where other lines have one. Their split would be a guess."""
    words = [row for row in rows if row.word != NOISE_FOLDER]
    with_one = next((row for row in words if row.split), None)
    return [
        f"{path}:{row.line}: no split, but line {with_one.line} has one; wanted one in every line or in none"
        for row in words
        if with_one and not row.split
    ]
