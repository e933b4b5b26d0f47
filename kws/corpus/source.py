"""Sources of recordings: folders of word folders, archives of such folders, and tables.

    SRC... --survey--> layout of the folders --read--> recordings one by one (word, speaker, file or bytes), the splits
    that folders, lists or tables name, and what was left out

Archives are not unpacked to disk. The word is the name of a folder (chosen by kws/corpus/layout.py), or comes from the
recording's own name, its label track or a table; `_background_noise_` holds noise.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TextIO

from kws.audio import formats
from kws.corpus import archives, layout, survey, table_reader
from kws.corpus.layout import Layout
from kws.corpus.left_out import LeftOut, printable
from kws.corpus.name_pattern import NamePattern
from kws.corpus.recording import NOISE_FOLDER, Recording, speaker_from_name, to_nfc
from kws.corpus.source_reader import Findings, SourceReader
from kws.corpus.split_names import split_in
from kws.corpus.table_reader import TableReader
from kws.corpus.tables import finding, unsupported
from kws.corpus.tables.table import Table
from kws.errors import UsageError

__all__ = ["NOISE_FOLDER", "Recording", "Sources", "speaker_from_name", "split_by_hash", "split_key"]

_MAX_PER_CLASS = 2**27 - 1


@dataclasses.dataclass
class Sources:
    """Several folders, archives and tables as one corpus. Iterating yields the recordings and fills all other fields.

    names: the pattern of names (kws.corpus.name_pattern); "": names give only the speaker, before `_nohash_`.
    are_plain: the sources are known to be WORD/FILE, so that archives need not be surveyed. tables: names of the tables
    in folders that are read; empty: those that are found; "none": none.
    Raises UsageError for a path that is no source.
    """

    paths: Sequence[Path]
    names: str = ""
    are_plain: bool = False
    tables: Sequence[str] = ()
    notes: list[str] = dataclasses.field(default_factory=list)
    """What was understood, guessed, or is noteworthy about the sources."""
    found: Findings = dataclasses.field(default_factory=Findings)

    def __post_init__(self) -> None:
        self._pattern = NamePattern(to_nfc(self.names)) if self.names else None
        self._surveys: dict[Path, survey.Survey] = {}
        self._found_tables: dict[Path, finding.Found] = {}
        for path in self.paths:
            if not path.exists():
                raise UsageError(
                    f"{path}: no such folder or archive; wanted a folder of word folders, an archive of one, or a table"
                )
            if (path / "index" / "index.json").exists():
                raise UsageError(
                    f"{path}: packed already; train on it, or add recordings: kws pack SRC... {path} --append"
                )
            if path.is_file() and formats.is_named_as_audio(path.name):
                raise UsageError(
                    f"{path}: one audio file; give its folder, where folders, file names or label tracks name the words"
                )
            if path.is_file() and (other := unsupported.describe([path.name])):
                raise UsageError(str(path.parent / other))
        table_reader.check_names(self.paths, self.tables)

    def list_left_out(self, listing: TextIO) -> None:
        """Has every file that is left out listed in a text file, from the next iteration on."""
        self.found.left_out = LeftOut(listing)

    @property
    def ignored(self) -> list[str]:
        """Recordings that are left out, a message for each kind, with the reason."""
        return self.found.left_out.faults()

    @property
    def total_bytes(self) -> int:
        """Bytes of all sources on disk, for progress bars."""
        return sum(self._size(path) for path in self.paths)

    def __iter__(self) -> Iterator[Recording]:
        """Raises UsageError for a source without recordings, and for one that cannot be read."""
        for path in self.paths:
            num_found, before = 0, self.found.left_out.counts.copy()
            for recording in self._read_source(path):
                num_found += 1
                yield recording
            if not num_found:
                raise UsageError(self._no_recordings(path, self.found.left_out.counts - before))

    def _no_recordings(self, path: Path, left_out: collections.Counter[str]) -> str:
        """Why a source has no recordings. left_out: the files in it, by kind."""
        if finding.is_table(path):
            return f"{path}: no clips in it; wanted a line for each clip below the header"
        if self._pattern:
            faults = self.found.left_out.faults()
            example = f" (such as {faults[0].rpartition(': ')[0]})" if faults else ""
            return f"{path}: no recording there has a name that matches --names {self.names!r}{example}"
        problem = self._tables(path).problem
        if problem:
            return f"{path}: no audio in word folders there, and {problem}"
        if self.found.left_out.counts["damaged"]:  # long recordings with label tracks
            return f"{path}: no recording there can be read ({self.found.left_out.faults()[0]})"
        if inner := self._archives_instead(path):
            return (
                f"{path}: no audio in word folders in its archives ({_some(inner)}); unpack each into a folder with "
                "the name of its word"
            )
        example = self._survey(path).example
        there = ", ".join(f"{count:,} {printable(kind)}" for kind, count in left_out.most_common(4))
        found = f" (found {there})" if there else ""
        if path.is_dir() and example and "/" not in example:
            above = f"; if {path} holds the recordings of one word, pack the folder above it"
        else:
            above = ""
        return (
            f"{path}: no audio in word folders there{found}; wanted WORD/FILE.wav (or flac, opus, ogg, mp3), or "
            "--names '{word}_{}' if the file names contain the word"
            + (f", such as {example}" if example else "")
            + above
        )

    # --- one source -------------------------------------------------------------------------------------------

    def _survey(self, path: Path) -> survey.Survey:
        if path not in self._surveys:
            self._surveys[path] = survey.survey(path, word_in_name=self._word_in_name)
        return self._surveys[path]

    @property
    def _word_in_name(self) -> bool:
        return self._pattern is not None and self._pattern.has_word

    def _is_surveyed(self, path: Path) -> bool:
        """Whether the meaning of the folders must be found first. Reading a compressed archive twice takes time."""
        known = self.are_plain or (self._pattern is not None and self._pattern.is_for_paths)
        return not finding.is_table(path) and (path.is_dir() or not known)

    def _size(self, path: Path) -> int:
        if tables := self._tables(path).tables:
            with _way_out(path):
                return TableReader(tables, self.found).total_bytes
        inner = self._archives_instead(path)
        if inner:
            return sum(self._size(archive) for archive in inner)
        return self._survey(path).total_bytes if self._is_surveyed(path) else path.stat().st_size

    def _archives_instead(self, path: Path) -> list[Path]:
        """The archives in a folder that has no recordings of its own: they are read in its place."""
        if not path.is_dir():
            return []
        found = self._survey(path)
        return [] if found.num_recordings else [path / name for name in found.archives]

    def _read_source(self, path: Path) -> Iterator[Recording]:
        tables = self._tables(path)
        self.notes += tables.notes
        if tables.tables:
            with _way_out(path):
                yield from self._read_tables(tables.tables, path if path.is_dir() else None)
            return
        if path.is_file() and (example := archives.guessed_name(path)):
            self.notes.append(
                f"{path}: its names are not UTF-8 and are read as code page 437, such as {printable(example)!r}; if "
                "that is wrong, unpack it and give its folder"
            )
        inner = self._archives_instead(path)
        if inner:
            self.notes.append(f"{path}: recordings are read from the archives in it: {_some(inner)}")
        reader = SourceReader(path, self.found, self._pattern, self._layout(path), self._has_long_names(path))
        yield from reader.read(passed_over={archive.relative_to(path).as_posix() for archive in inner})
        for archive in inner:
            yield from self._read_source(archive)

    def _tables(self, path: Path) -> finding.Found:
        """The tables of a source, which decide instead of its folders; `--names` decides instead of both."""
        if path not in self._found_tables:
            by_names = self.are_plain or (self._pattern is not None and not self.tables)
            found = finding.Found() if by_names and path.is_dir() else table_reader.find_tables(path, self.tables)
            if path.is_dir() and found.tables and not self.tables:
                found = self._unless_in_word_folders(path, found)
            self._found_tables[path] = found
        return self._found_tables[path]

    def _unless_in_word_folders(self, path: Path, found: finding.Found) -> finding.Found:
        """The tables; none where they list a part of the recordings in word folders, with the same words."""
        if not all(table.is_strict for table in found.tables) or not table_reader.agree_with_folders(found.tables):
            return found
        with _way_out(path):
            num_rows, num_files = TableReader(found.tables, self.found).num_rows, self._survey(path).num_recordings
        if num_rows >= 0.9 * num_files:
            return found
        names = ", ".join(table.path for table in found.tables[:3])
        what = f"{path}: {names} with {num_rows:,} of the {num_files:,} recordings in word folders: not read"
        return finding.Found(notes=[f"{what}; to read it: --table {found.tables[0].path}"])

    def _read_tables(self, tables: Sequence[Table], folder: Path | None = None) -> Iterator[Recording]:
        """The recordings that tables list. `folder`: the source that they were found in, whose other files are
        counted."""
        reader = TableReader(tables, self.found)
        yield from reader.read()
        if folder:
            yield from reader.read_others(folder)
        self.notes += reader.notes

    def _layout(self, path: Path) -> Layout:
        """The meaning of the source's folders."""
        if not self._is_surveyed(path) or self.are_plain or (self._pattern and self._pattern.is_for_paths):
            return Layout()
        found = self._understand(path)
        self.notes += found.notes
        folders = found.split_folders - found.unlabelled
        self.found.gives_splits |= bool(folders)
        if len(self.paths) > 1:  # of a single source, the layout notes recordings in no split folder
            self.found.names_training |= "train" in map(split_in, folders)
        return found

    def _understand(self, path: Path) -> Layout:
        """The layout, from the survey. Raises UsageError, which names what else may give the words."""
        surveyed = self._survey(path)
        if self._word_in_name:
            return layout.split_folders(surveyed.folders)
        try:
            found = layout.understand(str(path), surveyed.folders)
        except UsageError as error:
            problem = self._tables(path).problem
            if surveyed.tables:
                problem = f"{surveyed.tables[0]} in it may list the words: unpack the archive and give its folder"
            raise UsageError(f"{error}; {problem}" if problem else str(error)) from error
        if len(found.words) == 1 and (unread := self._tables(path).unread):
            raise UsageError(
                f"{path}: all recordings are in {next(iter(found.words))}/, and {unread}; or go by the folders' names: "
                f"--table {finding.NONE}"
            )
        return found

    def _has_long_names(self, path: Path) -> bool:
        """Whether the names of a source's recordings contain their folders because file names repeat."""
        if self._pattern and self._pattern.is_for_paths:
            return True
        return self._is_surveyed(path) and self._survey(path).has_repeated_names


@contextlib.contextmanager
def _way_out(path: Path) -> Iterator[None]:
    """Adds to a mistake in a table that was found in a folder how to pack the folder without it."""
    try:
        yield
    except UsageError as error:
        if not path.is_dir():
            raise
        raise UsageError(f"{error}; correct the table, or go by the folders' names: --table {finding.NONE}") from error


def split_key(name: str, speaker: str) -> str:
    """What the hash rule is applied to: the speaker if known, else the file's name without extension."""
    return speaker or PurePosixPath(name).stem


def split_by_hash(key: str, valid_percent: float = 10.0, test_percent: float = 10.0) -> str:
    """The official rule of Speech Commands (Warden 2018, section 6): SHA-1 of the speaker decides the split, so a
    speaker stays in it when a corpus grows."""
    percent = hash_percent(key)
    if percent < valid_percent:
        return "valid"
    return "test" if percent < valid_percent + test_percent else "train"


def hash_percent(key: str) -> float:
    """The hash of a speaker, 0 to 100: valid has the lowest numbers, then test, then train."""
    number = int(hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest(), 16) % (_MAX_PER_CLASS + 1)
    return number * 100.0 / _MAX_PER_CLASS


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", ..." if paths[3:] else "")
