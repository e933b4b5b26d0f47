"""Reads one folder or archive: each file becomes a recording, a list of a split, or one that is left out.

files of the source + layout of its folders (or --names) -> Recording, Recording, ...; Findings
"""

from __future__ import annotations

import dataclasses
import functools
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kws.audio import codec, formats
from kws.corpus import archives, label_track, split_lists, survey
from kws.corpus.archives import SourceFile
from kws.corpus.layout import Folder, Layout, Reading
from kws.corpus.left_out import HIDDEN, NEAR_MISSES, LeftOut
from kws.corpus.name_pattern import NameFields, NamePattern
from kws.corpus.recording import (
    NEAR_MISS_FOLDER,
    NOISE_FOLDER,
    Recording,
    excerpt_name,
    raise_unreadable,
    speaker_from_name,
    speaker_of_long_recording,
    to_nfc,
)  # fmt: skip
from kws.corpus.split_lists import LISTS, SplitList
from kws.corpus.split_names import split_called, split_in
from kws.errors import UsageError

_OWN_FILES = frozenset({"synth.json"})
"""Files that kws itself writes beside recordings."""


@dataclasses.dataclass
class Findings:
    """What reading finds beside the recordings.

    lists: the lists of splits. listed: name of a recording -> its split in the lists, which counts before its own.
    gives_splits: whether lists, folders, tables or names give splits. names_training: whether tables or names also say
    which recordings are for training.
    """

    lists: list[SplitList] = dataclasses.field(default_factory=list)
    listed: dict[str, str] = dataclasses.field(default_factory=dict)
    gives_splits: bool = False
    names_training: bool = False
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)

    def note_split(self, split: str) -> None:
        """Notes that a table or a name puts a recording into that split; "": into none."""
        self.gives_splits = self.gives_splits or bool(split)
        self.names_training = self.names_training or split == "train"


class SourceReader:
    """Reads one folder or archive: each file becomes a recording, a list of a split, or one that is left out."""

    def __init__(
        self, path: Path, found: Findings, pattern: NamePattern | None, folders: Layout, has_long_names: bool
    ) -> None:
        """`has_long_names`: names contain the folders, because file names repeat."""
        self._path, self._found, self._pattern, self._layout = path, found, pattern, folders
        self._has_long_names, self._left_out = has_long_names, found.left_out
        self._read_folder = functools.lru_cache(maxsize=1024)(folders.read)
        self._tracks: set[Path] = set()
        """The label tracks that were used, in the folder that is read."""

    def read(self, passed_over: set[str]) -> Iterator[Recording]:
        """The recordings. `passed_over`: names of archives that are read themselves."""
        for file in archives.read(self._path):
            if file.name in passed_over:
                continue
            name = to_nfc(file.name)
            folder, base = _parts(name)
            if survey.is_hidden(folder, base):
                self._left_out.passed_over(self._path, name, HIDDEN, "hidden")
            elif NEAR_MISS_FOLDER in folder:
                self._left_out.passed_over(self._path, name, NEAR_MISSES, "a near miss of kws listen")
            elif base in LISTS and file.is_regular:
                self._read_list(file, folder, base)
            elif base not in _OWN_FILES and self._is_audio(file, base) and self._is_usable(file, name, folder):
                yield from self._recordings(file, folder, base)

    def _is_audio(self, file: SourceFile, base: str) -> bool:
        """Whether it is audio, by the ending of its name or its first bytes; else it is counted."""
        kind = formats.name_kind(base)
        if kind == "audio":
            return True
        if kind == "maybe" and file.is_regular:
            try:
                if formats.audio_format(file.head()):
                    return True
            except UsageError:
                self._left_out.no_audio(self._path, file.name, "cannot be read")
                return False
        if file.path in self._tracks:
            return False
        if archives.is_archive(base):
            reason = (
                f"an archive inside a source; give it as one more: kws pack {self._path} {self._path / file.name} DIR"
            )
            self._left_out.no_audio(self._path, file.name, reason)
        else:
            self._left_out.no_audio(self._path, file.name)
        return False

    def _is_usable(self, file: SourceFile, name: str, folder: Folder) -> bool:
        """Whether it is a file that can be a recording; else it is counted."""
        split = self._layout.without_split(folder)[0]
        if not file.is_regular:
            self._fault(name, "a broken link, or a link inside an archive", "links")
        elif name.encode(errors="replace").decode() != name:
            self._fault(name, "the name is not UTF-8; rename it", "names that are not UTF-8")
        elif any(unicodedata.category(c) == "Cc" for c in "".join(folder)):
            self._fault(name, "the folder's name has control characters; rename it", "names with control characters")
        elif split in self._layout.unlabelled:
            self._left_out.passed_over(self._path, name, f"unlabelled in {split}/", "not in a word folder")
        else:
            return True
        return False

    def _fault(self, name: str, reason: str, kind: str, folder: str = "") -> None:
        self._left_out.fault(self._path, name, reason, kind, folder)

    def _recordings(self, file: SourceFile, folder: Folder, base: str) -> Iterator[Recording]:
        """The recording of one file, or its labelled excerpts; none where it belongs to no word, which is noted."""
        track = survey.track_beside(file.path, file.beside) if file.path else None
        if track and file.path:
            self._tracks = {known for known in self._tracks if known.parent == track.parent} | {track}
            yield from self._excerpts(folder, file.path, track)
            return
        reading = self._reading(folder, base)
        if reading:
            yield Recording(
                self._name(reading, folder, base), self._path, file.audio, reading.speaker, split=self._split(reading)
            )

    def _split(self, reading: Reading) -> str:
        if reading.split in self._layout.split_folders:
            return split_in(reading.split)
        split = split_called(reading.split)  # a part of the name, by --names
        self._found.note_split(split)
        return split

    def _reading(self, folder: Folder, base: str) -> Reading | None:
        """Word, speaker and split of a file; None where there is no word, which is noted."""
        found = self._understand(folder, base)
        if isinstance(found, Reading):
            return found
        kind, reason = found
        self._fault("/".join((*folder, base)), reason, kind, "/".join(folder) if reason == kind else "")
        return None

    def _understand(self, folder: Folder, base: str) -> Reading | tuple[str, str]:
        """The same; where there is no word, the kind of the fault and its reason."""
        found, name = self._read_folder(folder), "/".join((*folder, base))
        if self._pattern and (found is None or found.word != NOISE_FOLDER):
            fields = self._pattern.parse(_without_ending(name if self._pattern.is_for_paths else base))
            if fields is None:
                return "names that do not match", f"the name does not match --names {self._pattern.text!r}"
            if fields.split and not split_called(fields.split):
                return "unknown splits", f"the split {fields.split!r}; wanted train, valid or test"
            if fields.word:
                return self._reading_of_fields(fields, folder, base)
            if found and fields.speaker:
                return found._replace(speaker=fields.speaker)
        if found is None:
            return "not in a word folder", "not in a word folder"
        return found if found.speaker else found._replace(speaker=speaker_from_name(base))

    def _reading_of_fields(self, fields: NameFields, folder: Folder, base: str) -> Reading:
        """The reading of a name that contains the word."""
        split, rest = self._layout.without_split(folder)
        others = list(rest)
        if fields.word in others:
            others.remove(fields.word)
        before = (split,) if split else ()
        return Reading(
            fields.word, fields.speaker or speaker_from_name(base), fields.split or split, (*before, *others)
        )

    def _name(self, reading: Reading, folder: Folder, base: str) -> str:
        """WORD/FILE, or WORD/FOLDERS/FILE where file names may repeat."""
        is_usual = folder[-1:] == (reading.word,) or (self._pattern is not None and self._pattern.has_word)
        if self._has_long_names or self._layout.has_roles or not is_usual:
            return "/".join((reading.word, *reading.others, base))
        return f"{reading.word}/{base}"

    def _excerpts(self, folder: Folder, audio: Path, track: Path) -> Iterator[Recording]:
        """The labelled excerpts of a long recording. Their names contain its folders, so that they are unique."""
        name = PurePosixPath(*folder, to_nfc(audio.name))
        try:
            with audio.open("rb") as file:
                length_s = codec.duration_s(file)
        except codec.AudioError as error:
            self._fault(str(name), str(error), "damaged")
            return
        except OSError as error:
            raise_unreadable(error, audio)
        labels = label_track.read(track, length_s)
        speaker, split = speaker_of_long_recording(name.name), split_in(self._layout.without_split(folder)[0])
        for label in labels:
            if not label.word:
                self._left_out.fault_line(f"{label.where}: an empty label")
        for word, span in label_track.clip_spans(labels, length_s):
            file_name = name.with_name(excerpt_name(name.name, span)).as_posix()
            yield Recording(f"{word}/{file_name}", self._path, audio, speaker, span, split)

    def _read_list(self, file: SourceFile, folder: Folder, base: str) -> None:
        where = f"{self._path}: {'/'.join((*folder, base))}"
        found = split_lists.read(where, base, file.read(), self._path)
        names = tuple(map(self._name_of_entry, found.entries))
        self._found.lists.append(dataclasses.replace(found, names=names))
        self._found.listed.update(dict.fromkeys(names, found.split))
        self._found.gives_splits = self._found.gives_splits or bool(names)

    def _name_of_entry(self, entry: str) -> str:
        """The name of the recording that a list's entry stands for: WORD/FILE, or its path below the source."""
        folder, base = _parts(entry)
        reading = self._understand(folder, base)
        return self._name(reading, folder, base) if isinstance(reading, Reading) else entry


def _parts(name: str) -> tuple[Folder, str]:
    """The folders and the file name of a name in an archive or folder."""
    *folder, base = [part for part in name.split("/") if part not in ("", ".", "..")] or [""]
    return tuple(folder), base


def _without_ending(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{PurePosixPath(base).stem}"
