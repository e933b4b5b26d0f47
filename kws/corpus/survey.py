"""A first look at a source: how many recordings lie in which folder. Holds folders and counts, never all file names.

folder (walked once) or archive (names of its members) -> Survey -> kws/corpus/layout.py
"""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from kws.audio import formats
from kws.corpus import archives, label_track
from kws.corpus.layout import Folder, FolderCount
from kws.corpus.recording import speaker_from_name, to_nfc

_SYSTEM_NAMES = frozenset(
    {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}
)
_TABLES = frozenset({"csv", "tsv", "jsonl", "parquet"})
_MOST_NAMES = 1 << 24
"""File names compared for repetition (8 bytes each); in a larger source they are taken to repeat."""


@dataclasses.dataclass
class Survey:
    """What a source holds. folders: the recordings directly in each folder. archives: names of those inside it.
    total_bytes: of all files that may be recordings. example: a recording that is in no folder, "" if there is none."""

    folders: dict[Folder, FolderCount] = dataclasses.field(default_factory=dict)
    archives: list[str] = dataclasses.field(default_factory=list)
    total_bytes: int = 0
    example: str = ""
    tables: list[str] = dataclasses.field(default_factory=list)
    """Names of files in an archive that may be tables; those in folders are found by kws/corpus/tables."""
    num_tracks: int = 0
    """Long recordings with a label track; their folders name no word."""
    word_in_name: bool = False
    """Whether the words come from the file names, so that the folder does not distinguish recordings."""
    _names: array.array[int] = dataclasses.field(default_factory=lambda: array.array("q"))

    @property
    def num_recordings(self) -> int:
        """All of them."""
        return self.num_tracks + sum(count.files for count in self.folders.values())

    @property
    def has_repeated_names(self) -> bool:
        """Whether two recordings have the same WORD/FILE, where the word is the last folder."""
        last = [folder[-1:] for folder in self.folders]
        if len(set(last)) == len(last) and not self.word_in_name:
            return False
        return len(self._names) >= _MOST_NAMES or len(np.unique(np.asarray(self._names))) < len(self._names)

    def add(self, folder: Folder, name: str) -> None:
        """Counts one recording."""
        count = self.folders.setdefault(folder, FolderCount())
        speaker = speaker_from_name(name)
        count.files += 1
        count.named += bool(speaker)
        count.speaker = count.speaker or speaker
        if not folder:
            self.example = self.example or name
        if len(self._names) < _MOST_NAMES:
            self._names.append(hash(name if self.word_in_name else (folder[-1:], name)))


def is_hidden(folder: Iterable[str], name: str) -> bool:
    """Whether a file is hidden, or one of those that macOS and Windows leave everywhere."""
    return any(part.startswith(".") or part in _SYSTEM_NAMES for part in (*folder, name))


def survey(source: Path, word_in_name: bool = False) -> Survey:
    """Surveys a folder or an archive. Raises UsageError where it cannot be read."""
    found = Survey(word_in_name=word_in_name)
    if source.is_dir():
        _survey_folder(source, found)
    else:
        _survey_archive(source, found)
    return found


def _survey_folder(root: Path, found: Survey) -> None:
    for raw_folder, names in archives.walk(root):
        folder, present = tuple(map(to_nfc, raw_folder)), frozenset(names)
        for name in names:
            if is_hidden(folder, name):
                continue
            if formats.is_named_as_audio(name):
                path = root.joinpath(*raw_folder, name)
                found.total_bytes += path.lstat().st_size
                if track_beside(path, present):
                    found.num_tracks += 1
                else:
                    found.add(folder, to_nfc(name))
            elif archives.is_archive(name):
                found.archives.append("/".join((*raw_folder, name)))


def _survey_archive(path: Path, found: Survey) -> None:
    found.total_bytes = path.stat().st_size
    for name in archives.member_names(path):
        *folder, base = PurePosixPath(to_nfc(name)).parts or ("",)
        if base and formats.is_named_as_audio(base) and not is_hidden(folder, base):
            found.add(tuple(folder), base)
        elif formats.ending(base) in _TABLES and not is_hidden(folder, base):
            found.tables.append(name)


def track_beside(recording: Path, names: frozenset[str]) -> Path | None:
    """The label track of a recording, among the names in its folder; None if there is none."""
    if {f"{recording.stem}{ending}" for ending in (label_track.PRAAT, ".txt")} & names:
        return label_track.find_track(recording)
    return None
