"""Reads the recordings that tables list, and counts the files beside them that they do not list.

tables of one place -> Recording, Recording, ...; Findings
"""

from __future__ import annotations

import array
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kws.audio import formats
from kws.corpus import archives, survey
from kws.corpus.left_out import HIDDEN
from kws.corpus.recording import Recording, to_nfc
from kws.corpus.source_reader import Findings
from kws.corpus.tables import clips, kaldi
from kws.corpus.tables.table import Table

UNLISTED = "not listed"
"""The kind of recordings that no table lists."""
_KALDI_FILES = kaldi.FILES | {"utt2spk", "spk2utt", "segments", "utt2dur", "reco2dur", "spk2gender"}


class TableReader:
    """Reads tables that lie in the same place. notes: how they were read; complete after reading."""

    def __init__(self, tables: Sequence[Table], found: Findings) -> None:
        self.notes: list[str] = []
        self._tables, self._found = tables, found
        self._listed: array.array[int] = array.array("q")  # hashes of paths: 8 bytes for each recording

    def read(self) -> Iterator[Recording]:
        """The recordings. Raises UsageError for mistakes in a table."""
        rows, left_out = clips.LeftOutCounts(), self._found.left_out

        def leave_out(row: clips.LeftOut) -> None:
            rows.add(row)
            left_out.num_faults += row.is_fault
            left_out.passed_over(Path(row.where), row.audio, "left out by tables", row.reason)

        listed = clips.Clips(self._tables, leave_out)
        for clip in listed:
            if clip.split:
                self._found.split_of[clip.name] = clip.split
            # Links are not resolved: a link's name may contain the speaker.
            audio = Path(_absolute(self._tables[0].place.name, clip.path))
            self._listed.append(hash(str(audio)))
            yield Recording(
                clip.name, Path(clip.table), audio if clip.data is None else clip.data, clip.speaker, clip.span
            )
        self.notes += listed.notes + rows.lines(faults=False)
        for line in rows.lines(faults=True):
            left_out.fault_line(line, count=0)  # each row is counted above

    def count_others(self, root: Path) -> None:
        """Counts the files below `root` that the tables do not list. Call it after reading."""
        listed = np.unique(np.asarray(self._listed))
        used = {_absolute(table.place.name, table.path) for table in self._tables}
        for folder, names in archives.walk(root):
            for name in names:
                path, shown = _absolute(str(root), "/".join((*folder, name))), to_nfc("/".join((*folder, name)))
                if survey.is_hidden(folder, name):
                    self._found.left_out.passed_over(root, shown, HIDDEN, "hidden")
                elif path in used or self._is_listed(listed, path) or name in _KALDI_FILES:
                    continue
                elif formats.is_named_as_audio(name):
                    self._found.left_out.passed_over(root, shown, UNLISTED, "no table lists it")
                else:
                    self._found.left_out.no_audio(root, shown)
        unlisted = self._found.left_out.counts[UNLISTED]
        if unlisted:
            self.notes.append(f"{root}: {unlisted:,} recordings left out: no table lists them")

    def _is_listed(self, listed: np.ndarray[tuple[int], np.dtype[np.int64]], path: str) -> bool:
        at = int(np.searchsorted(listed, hash(path)))
        return at < len(listed) and int(listed[at]) == hash(path)


def _absolute(root: str, path: str) -> str:
    return os.path.normpath(Path(root, path).absolute())
