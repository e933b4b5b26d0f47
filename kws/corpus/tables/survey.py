"""The first reading of tables: checks every row, and finds what the second reading needs to know of all rows.

Memory holds 8 bytes a row for each of three questions (which names, audio files and files of excerpts repeat), until
the reading ends.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kws.audio import codec
from kws.corpus.label_track import parse_seconds
from kws.corpus.recording import NOISE_FOLDER, Span, excerpt_name, to_nfc
from kws.corpus.split_names import split_called
from kws.corpus.tables import word_names
from kws.corpus.tables.paths import PathRule, find_rule
from kws.corpus.tables.table import RawRow, Table
from kws.errors import UsageError, mistakes_error

_MOST_MISTAKES = 10
_MOST_WORDS = 4
_MOST_LETTERS = 8
"""A text with more words, or more letters of a script that puts no spaces between words, is a sentence."""
_WITHOUT_SPACES = re.compile(r"[\u0e00-\u0eff\u2e80-\u9fff]")
_NUMBER = re.compile(r"-?\d+")
_MOST_NUMBERS = 10_000
_CHECKED_LENGTHS = 16
_ROUNDING_S = 0.1


class Entry(NamedTuple):
    """A checked row. path: the audio file's in the place; for a row with bytes, its name."""

    word: str
    path: str
    speaker: str
    split: str
    span: Span | None


def name_key(entry: Entry) -> int:
    """A hash of the short name of the clip."""
    base = entry.path.rpartition("/")[2]
    return hash((entry.word, base, entry.span))


def audio_key(entry: Entry) -> int:
    """A hash of the part of the audio file that the clip is."""
    return hash((entry.path, entry.span))


def is_sentence(text: str) -> bool:
    """Whether a text is rather a sentence than a keyword of a few words."""
    if len(text) <= _MOST_LETTERS:
        return False
    return len(text.split()) > _MOST_WORDS or len(_WITHOUT_SPACES.findall(text)) > _MOST_LETTERS


@dataclasses.dataclass
class Survey:
    """What is known after the first reading. rules: of each table, where its audio is; None: nowhere. repeated_names,
    repeated_audio: hashes that several rows share. root: the folder that holds all audio files. word_of_number: what
    numeric labels stand for. num_rows: without those that the tables themselves exclude."""

    rules: dict[int, PathRule | None] = dataclasses.field(default_factory=dict)
    repeated_names: frozenset[int] = frozenset()
    repeated_audio: frozenset[int] = frozenset()
    root: str = ""
    word_of_number: dict[str, str] = dataclasses.field(default_factory=dict)
    excerpted: frozenset[int] = frozenset()
    """Hashes of files of which tables with offsets list several excerpts."""
    all_excerpts: set[int] = dataclasses.field(default_factory=set)
    """Tables (by id) in which an excerpt that starts at 0 is shorter than its file."""
    num_rows: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    def path(self, table: Table, raw: RawRow) -> str:
        """Where the audio of a row is or would be, in the place."""
        rule = self.rules.get(id(table))
        return rule.apply(raw.audio) if rule and raw.audio and raw.data is None else raw.audio

    def read(self, table: Table, raw: RawRow) -> tuple[Entry | None, str, bool]:
        """The row, checked; or None, why it is left out, and whether that is a fault."""
        if raw.left_out:
            return None, raw.left_out, False
        if table.is_text and is_sentence(raw.word):
            return None, "a sentence, no keyword", False
        try:
            entry = check(table, raw, self.rules.get(id(table)))
        except ValueError as error:
            return None, str(error), True
        if entry.span and _is_from_start(raw) and self._is_whole(table, entry.path):
            entry = entry._replace(span=None)
        return entry, "", False

    def _is_whole(self, table: Table, path: str) -> bool:
        return id(table) not in self.all_excerpts and hash(path) not in self.excerpted


def _is_from_start(raw: RawRow) -> bool:
    """Whether a row states an offset of 0 and a duration, which may be the whole file's."""
    return bool(raw.duration) and not raw.end and not float(raw.start or 0)


def check(table: Table, raw: RawRow, rule: PathRule | None) -> Entry:
    """The checked row. Raises ValueError with the reason."""
    if raw.mistake:
        raise ValueError(raw.mistake)
    if not raw.audio:
        raise ValueError("no path; wanted the audio file, relative to the table's folder")
    split = split_called(raw.split)
    if raw.split and not split:
        raise ValueError(f"the split {raw.split!r}; wanted train, valid or test")
    path = raw.audio if rule is None or raw.data is not None else rule.apply(raw.audio)
    word = table.parse_word(raw.word)
    span = _span(raw) if raw.start or raw.end else None
    return Entry(word, path, to_nfc(raw.speaker), split or table.split, span)


def _span(raw: RawRow) -> Span:
    start, end = raw.start, raw.end
    if start and not end and raw.duration:
        first = parse_seconds(start)
        span = (first, first + parse_seconds(raw.duration))
    elif not start or not end:
        raise ValueError("only one of start and end; wanted both, in seconds, or neither")
    else:
        span = (parse_seconds(start), parse_seconds(end))
    if not 0 <= span[0] < span[1]:
        raise ValueError(f"from {span[0]:g} to {span[1]:g} s; wanted 0 or more, and an end after the start")
    return span


def survey(tables: Sequence[Table]) -> Survey:
    """Reads all tables once. Raises UsageError for their mistakes, and where no audio file is found."""
    reading = _Reading(tables)
    for table in tables:
        reading.find_files(table)
        reading.read(table)
    return reading.finish()


class _Reading:
    """The first reading, while it runs."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables, self._found = tables, Survey()
        self._names, self._audio, self._excerpted = array("q"), array("q"), array("q")
        self._root: str | None = None
        self._mistakes, self._num_mistakes = list[str](), 0
        self._numbers: set[str] | None = set()
        self._with_split, self._without_split, self._num_without = "", list[str](), 0
        self._excerpts: dict[int, dict[str, Span]] = {}
        """Of each table, some excerpts that start at 0, by their files."""

    def find_files(self, table: Table) -> None:
        """Finds out where the table's audio files are."""
        rows = (raw for raw in table.raw_rows(with_audio=False) if not raw.left_out and not raw.mistake)
        first = next(rows, None)
        if first is None or first.data is not None:
            return

        def written() -> Iterator[str]:
            yield first.audio
            yield from (raw.audio for raw in rows)

        rule = find_rule(table.place, table.folder, written())
        self._found.rules[id(table)] = rule
        if rule and (unusual := rule.describe(posixpath.join(table.folder, table.audio_folder))):
            self._found.notes.append(f"{table.name}: {unusual}")

    def read(self, table: Table) -> None:
        """Reads all rows of a table."""
        rule, num_sentences, num_rows = self._found.rules.get(id(table)), 0, 0
        excerpts = dict[str, Span]()
        for raw in table.raw_rows(with_audio=False):
            if raw.left_out:
                continue
            num_rows += 1
            if table.is_text and is_sentence(raw.word):
                num_sentences += 1
                continue
            try:
                entry = check(table, raw, rule)
            except ValueError as error:
                self._mistake(table, raw, str(error))
                continue
            self._add(table, raw, entry)
            if entry.span and _is_from_start(raw) and len(excerpts) < 16 * _CHECKED_LENGTHS:
                excerpts[entry.path] = entry.span
        self._found.num_rows += num_rows
        if num_sentences * 2 > num_rows:
            raise UsageError(_sentences(table, num_sentences, num_rows))
        self._excerpts[id(table)] = excerpts
        self._found.notes += table.notes

    def _add(self, table: Table, raw: RawRow, entry: Entry) -> None:
        if entry.word != NOISE_FOLDER:
            self._note_split(table, raw, entry.split)
            if self._numbers is not None:
                self._numbers.add(entry.word)
                if not _NUMBER.fullmatch(entry.word) or len(self._numbers) > _MOST_NUMBERS:
                    self._numbers = None
        if entry.span and raw.duration:
            self._excerpted.append(hash(entry.path))
        if raw.data is None:
            self._audio.append(audio_key(entry))
            folder = entry.path.rpartition("/")[0]
            if self._root is None:
                self._root = folder
            elif folder != self._root and not folder.startswith(f"{self._root}/") and self._root:
                self._root = _common_folder(self._root, folder)
        self._names.append(name_key(entry))

    def _note_split(self, table: Table, raw: RawRow, split: str) -> None:
        if split:
            self._with_split = self._with_split or table.where(raw.line)
        elif table.is_strict:
            self._num_without += 1
            if len(self._without_split) < _MOST_MISTAKES:
                self._without_split.append(table.where(raw.line))

    def _mistake(self, table: Table, raw: RawRow, what: str) -> None:
        if table.is_strict:
            self._num_mistakes += 1
            if len(self._mistakes) < _MOST_MISTAKES:
                self._mistakes.append(f"{table.where(raw.line)}: {what}")

    def finish(self) -> Survey:
        """What was found. Raises UsageError for mistakes."""
        found = self._found
        found.repeated_names, found.repeated_audio = _repeated(self._names), _repeated(self._audio)
        found.excerpted, found.root = _repeated(self._excerpted), self._root or ""
        self._name_numbers()
        self._check_lengths()
        if found.repeated_audio:
            self._find_duplicates()
        if self._with_split:
            for where in self._without_split:
                self._mistakes.append(
                    f"{where}: no split, but {self._with_split} has one; wanted one in every line or in none"
                )
            self._num_mistakes += self._num_without
        if self._mistakes:
            missing = self._num_mistakes - len(self._mistakes)
            raise mistakes_error([*self._mistakes, *[""] * missing])
        self._check_found()
        return found

    def _check_found(self) -> None:
        """Raises UsageError where tables list rows and no file of any of them is there."""
        rules = self._found.rules
        if rules and self._found.num_rows and all(rule is None for rule in rules.values()):
            table = next(table for table in self._tables if id(table) in rules)
            raw = next(raw for raw in table.raw_rows(with_audio=False) if not raw.left_out)
            raise UsageError(
                f"{table.where(raw.line)}: {raw.audio}: no such file, and none of the others; wanted paths relative to "
                f"{posixpath.join(table.place.name, table.folder) or '.'}"
            )

    def _check_lengths(self) -> None:
        """Finds the tables in which excerpts that start at 0 are not the whole files."""
        for table in self._tables:
            alone = [item for item in self._excerpts[id(table)].items() if hash(item[0]) not in self._found.excerpted]
            if any(_is_shorter(table, path, span) for path, span in alone[:_CHECKED_LENGTHS]):
                self._found.all_excerpts.add(id(table))

    def _name_numbers(self) -> None:
        """Finds the words that numeric labels stand for."""
        if not self._numbers or self._numbers is None:
            return
        names = word_names.find(self._tables[0].place, self._tables[0].folder, self._numbers)
        if names:
            self._found.word_of_number = names.words
            self._found.notes.append(f"{self._tables[0].name}: its numbers stand for the words of {names.path}")

    def _find_duplicates(self) -> None:
        """Mistakes: rows with the same audio as an earlier row of a table in which that is one."""
        for table in self._tables:
            if table.may_repeat or not table.is_strict:
                continue
            first: dict[int, tuple[int, str]] = {}
            for raw in table.raw_rows(with_audio=False):
                try:
                    entry = check(table, raw, self._found.rules.get(id(table)))
                except ValueError:
                    continue
                if audio_key(entry) not in self._found.repeated_audio:
                    continue
                line, word = first.setdefault(audio_key(entry), (raw.line, entry.word))
                if line != raw.line:
                    self._mistake(table, raw, _duplicate(entry, line, word))


def _duplicate(entry: Entry, line: int, word: str) -> str:
    file = to_nfc(entry.path.rpartition("/")[2])
    base = excerpt_name(file, entry.span) if entry.span else file
    return f"{base} is already in line {line}{'' if word == entry.word else f', as {word!r}'}; remove one"


def _sentences(table: Table, num_sentences: int, num_rows: int) -> str:
    return (
        f"{table.name}: {num_sentences:,} of its {num_rows:,} rows are sentences, no keywords; wanted recordings of "
        "single words or short phrases, such as Common Voice's single-word segment or the Multilingual Spoken Words "
        "Corpus (MSWC), which has the words of Common Voice cut out"
    )


def _is_shorter(table: Table, path: str, span: Span) -> bool:
    """Whether the excerpt ends clearly before its file does."""
    if not table.place.is_file(path):
        return False
    try:
        with table.place.open(path) as file:
            return codec.duration_s(file) > span[1] + _ROUNDING_S
    except codec.AudioError:
        return False


def _repeated(keys: array[int]) -> frozenset[int]:
    """The keys that occur more than once."""
    ordered = np.sort(np.frombuffer(keys, dtype=np.int64)) if keys else np.zeros(0, np.int64)
    return frozenset(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]).tolist())


def _common_folder(first: str, second: str) -> str:
    """The folder above both."""
    if first.startswith("/") != second.startswith("/"):
        return ""
    shared = [one for one, other in zip(first.split("/"), second.split("/"), strict=False) if one == other]
    return posixpath.commonpath([first, second]) if shared else ""
