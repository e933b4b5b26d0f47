"""Reads the recordings that tables list, and counts the files beside them that they do not list.

source (a table, or a folder with some) -> tables of one place -> Recording, Recording, ...; Findings
"""

from __future__ import annotations

import array
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kws.audio import formats
from kws.corpus import archives, survey
from kws.corpus.left_out import HIDDEN
from kws.corpus.recording import NOISE_FOLDER, Recording, to_nfc
from kws.corpus.source_reader import Findings
from kws.corpus.tables import clips, finding, kaldi
from kws.corpus.tables.finding import Found
from kws.corpus.tables.place import Folder
from kws.corpus.tables.table import RawRow, Table
from kws.errors import UsageError

UNLISTED = "not listed"
"""The kind of recordings that no table lists."""
_KALDI_FILES = kaldi.FILES | {"utt2spk", "spk2utt", "segments", "utt2dur", "reco2dur", "spk2gender"}


_MEASURED_CLIPS = 2000
_SAMPLED_ROWS = 200
_MOST = 0.9


def find_tables(path: Path, wanted: Sequence[str]) -> Found:
    """The tables of a source: the table that it is, or those in a folder. wanted: the names given by `--table`.

    Raises UsageError for a table that cannot be read, and for several that may not belong together.
    """
    if finding.is_table(path):
        return Found(finding.open_table(path))
    place = Folder(path)
    here = [name for name in wanted if name == finding.NONE or finding.holds(place, name)]
    return finding.find(place, here) if path.is_dir() else Found()


def check_names(paths: Sequence[Path], wanted: Sequence[str]) -> None:
    """Raises UsageError for a name given by `--table` that no source has."""
    places = [Folder(path) for path in paths if path.is_dir()]
    for name in wanted:
        if name != finding.NONE and not any(finding.holds(place, name) for place in places):
            if not places:
                raise UsageError(
                    f"--table {name}: none of the sources is a folder; give the table itself as the source"
                )
            finding.find(places[0], [name])


def agree_with_folders(tables: Sequence[Table]) -> bool:
    """Whether the words of the tables are the names of the folders of their audio files."""
    rows = [row for table in tables for row in itertools.islice(table.raw_rows(with_audio=False), _SAMPLED_ROWS)]
    return bool(rows) and sum(map(_is_word_folder, rows)) >= _MOST * len(rows)


def _is_word_folder(row: RawRow) -> bool:
    return row.audio.replace("\\", "/").split("/")[-2:-1] == [row.word]


class TableReader:
    """Reads tables that lie in the same place. notes: how they were read; complete after reading."""

    def __init__(self, tables: Sequence[Table], found: Findings) -> None:
        self.notes: list[str] = []
        self._tables, self._found, self._clips = tables, found, clips.Clips(tables)
        self._listed: array.array[int] = array.array("q")  # hashes of paths: 8 bytes for each recording

    @property
    def num_rows(self) -> int:
        """Rows of the tables, without those that the tables themselves exclude."""
        return self._clips.survey.num_rows

    @property
    def total_bytes(self) -> int:
        """Bytes of the recordings; of many, about."""
        sizes = [self._recording(clip).size for clip in itertools.islice(self._clips.read(), _MEASURED_CLIPS)]
        return sum(sizes) if len(sizes) < _MEASURED_CLIPS else sum(sizes) * self.num_rows // len(sizes)

    def read(self) -> Iterator[Recording]:
        """The recordings. Raises UsageError for mistakes in a table."""
        rows, left_out = clips.LeftOutCounts(), self._found.left_out

        def leave_out(row: clips.LeftOut) -> None:
            rows.add(row)
            left_out.num_faults += row.is_fault
            left_out.passed_over(Path(row.where), row.audio, "left out by tables", row.reason)
            self._listed.append(hash(_absolute(self._tables[0].place.name, row.path)))

        for clip in self._clips.read(leave_out):
            self._found.note_split(clip.split)
            recording = self._recording(clip)
            if isinstance(recording.audio, Path):
                self._listed.append(hash(str(recording.audio)))
            yield recording
        self.notes += self._clips.survey.notes + rows.lines(faults=False)
        for line in rows.lines(faults=True):
            left_out.fault_line(line, count=0)  # each row is counted above

    def _recording(self, clip: clips.Clip) -> Recording:
        # Links are not resolved: a link's name may contain the speaker.
        audio = clip.data if clip.data is not None else Path(_absolute(self._tables[0].place.name, clip.path))
        return Recording(clip.name, Path(clip.table), audio, clip.speaker, clip.span, clip.split)

    def read_others(self, root: Path) -> Iterator[Recording]:
        """Counts the files below `root` that the tables do not list. Yields the noise among them, which tables of words
        leave out. Call it after reading."""
        listed = np.unique(np.asarray(self._listed))
        used = {_absolute(table.place.name, table.path) for table in self._tables}
        for folder, names in archives.walk(root):
            for name in names:
                path, shown = _absolute(str(root), "/".join((*folder, name))), to_nfc("/".join((*folder, name)))
                if survey.is_hidden(folder, name):
                    self._found.left_out.passed_over(root, shown, HIDDEN, "hidden")
                elif path in used or self._is_listed(listed, path) or name in _KALDI_FILES:
                    continue
                elif formats.is_named_as_audio(name) and folder[-1:] == (NOISE_FOLDER,):
                    yield Recording(f"{NOISE_FOLDER}/{to_nfc(name)}", root, Path(path))
                elif formats.is_named_as_audio(name):
                    self._found.left_out.passed_over(root, shown, UNLISTED, "no table lists it")
                else:
                    self._found.left_out.no_audio(root, shown)
        unlisted = self._found.left_out.counts[UNLISTED]
        if unlisted:
            self.notes.append(f"{root}: {unlisted:,} audio files left out: no table lists them")

    def _is_listed(self, listed: np.ndarray[tuple[int], np.dtype[np.int64]], path: str) -> bool:
        at = int(np.searchsorted(listed, hash(path)))
        return at < len(listed) and int(listed[at]) == hash(path)


def _absolute(root: str, path: str) -> str:
    return os.path.normpath(Path(root, path).absolute())
