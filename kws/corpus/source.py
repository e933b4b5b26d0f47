"""Sources of recordings: folders of word folders, tar archives of such folders, and CSV files.

    SRC... -> recordings one by one (word, speaker, file or bytes), and the splits that lists or a CSV name

Archives are not unpacked to disk. The word is the name of the recording's folder, or comes from its own name, its label
track or the CSV; `_background_noise_` holds noise.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from kws.audio import codec
from kws.corpus import label_track
from kws.corpus.name_pattern import NamePattern
from kws.corpus.recording import (
    NOISE_FOLDER,
    Recording,
    excerpt_name,
    raise_unreadable,
    read_file,
    speaker_from_name,
    speaker_of_long_recording,
    to_nfc,
)  # fmt: skip
from kws.corpus.tables import finding
from kws.corpus.tables.clips import Clips, LeftOutCounts
from kws.corpus.tables.table import Table
from kws.errors import UsageError, unreadable

__all__ = ["NOISE_FOLDER", "Recording", "Sources", "StrictInfo", "speaker_from_name", "split_by_hash", "split_key"]

LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
_MAX_PER_CLASS = 2**27 - 1
_OTHER_AUDIO = frozenset({"aac", "amr", "m4a", "mp4", "webm", "wma", "3gp"})
"""Extensions of audio that soundfile cannot read. Such files are reported; files with other extensions are ignored."""


@dataclasses.dataclass
class Sources:
    """Several folders, archives and CSV files as one corpus. Iterating yields the recordings and fills `split_of` and
    `ignored`.

    names: the pattern of file names (kws.corpus.name_pattern); "": names give only the speaker, before `_nohash_`.
    Raises UsageError for a path that is no source.
    """

    paths: Sequence[Path]
    names: str = ""
    split_of: dict[str, str] = dataclasses.field(default_factory=dict)
    """WORD/FILE -> valid or test, from the lists; from a CSV also train."""
    ignored: list[str] = dataclasses.field(default_factory=list)
    """Audio that is left out, with the reason."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """How the sources are read."""

    def __post_init__(self) -> None:
        self._pattern = NamePattern(to_nfc(self.names)) if self.names else None
        for path in self.paths:
            if not path.exists():
                raise UsageError(
                    f"{path}: no such folder or archive; wanted a folder of word folders, a tar of one, or a CSV"
                )
            if (path / "index" / "index.json").exists():
                raise UsageError(
                    f"{path}: packed already; train on it, or add recordings: kws pack SRC... {path} --append"
                )
            if path.is_file() and codec.is_audio(path.name):
                raise UsageError(
                    f"{path}: one audio file; give its folder, where folders, file names or label tracks name the words"
                )

    @property
    def total_bytes(self) -> int:
        """Bytes of all sources on disk, for progress bars."""
        return sum(_size(path) for path in self.paths)

    def __iter__(self) -> Iterator[Recording]:
        """Raises UsageError for a source without recordings, and for one that cannot be read."""
        for path in self.paths:
            num_found = 0
            self._outside: dict[str, list[str]] = {}  # folder that names no word -> its audio files
            for recording in self._read_source(path):
                num_found += 1
                yield recording
            self.ignored += [_outside_line(path, folder, names) for folder, names in self._outside.items()]
            if not num_found:
                raise UsageError(self._no_recordings(path))

    def _no_recordings(self, path: Path) -> str:
        if finding.is_table(path):
            return f"{path}: no clips in it; wanted a line for each clip below the header"
        if self._pattern:
            example = f" (such as {self.ignored[0].rpartition(': ')[0]})" if self.ignored else ""
            return f"{path}: no recording there has a name that matches --names {self.names!r}{example}"
        return (
            f"{path}: no audio in word folders there; wanted WORD/FILE.wav (or flac, opus, ogg, mp3), or "
            "--names '{word}_{}' if the file names contain the word"
        )

    def _read_source(self, path: Path) -> Iterator[Recording]:
        if finding.is_table(path):
            yield from self._read_tables(finding.open_table(path))
            return
        for raw_name, content in _folder_files(path) if path.is_dir() else _archive_files(path):
            name = to_nfc(raw_name)
            base = PurePosixPath(name).name
            track = label_track.find_track(content) if isinstance(content, Path) and codec.is_audio(base) else None
            if content is None:
                self.ignored.append(f"{path}: {name}: a broken link, or a link inside an archive")
            elif base in LISTS:
                self._read_list(base, content if isinstance(content, bytes) else read_file(content))
            elif not codec.is_audio(base):
                self.ignored.append(f"{path}: {name}: not a supported format; convert it to wav or flac")
            elif str(name).encode(errors="replace").decode() != str(name):
                self.ignored.append(f"{path}: {str(name)!a}: the name is not UTF-8; rename it")
            elif track and isinstance(content, Path):
                yield from self._excerpts(path, PurePosixPath(name), content, track)
            else:
                yield from self._recording(path, PurePosixPath(name), content)

    def _read_tables(self, tables: Sequence[Table]) -> Iterator[Recording]:
        left_out = LeftOutCounts()
        clips = Clips(tables, left_out.add)
        for clip in clips:
            if clip.split:
                self.split_of[clip.name] = clip.split
            # Links are not resolved: a link's name may contain the speaker.
            audio = Path(os.path.normpath(Path(tables[0].place.name, clip.path).absolute()))
            yield Recording(
                clip.name, Path(clip.table), audio if clip.data is None else clip.data, clip.speaker, clip.span
            )
        self.notes += clips.notes + left_out.lines(faults=False)
        self.ignored += left_out.lines(faults=True)

    def _recording(self, path: Path, name: PurePosixPath, audio: Path | bytes) -> Iterator[Recording]:
        """The recording of one file; none where it belongs to no word, which is noted."""
        word, speaker = name.parent.name, speaker_from_name(name.name)
        if self._pattern and word != NOISE_FOLDER:
            fields = self._pattern.parse(name.stem)
            if fields is None:
                self.ignored.append(f"{path}: {name}: the name does not match --names {self.names!r}")
                return
            word, speaker = fields.word or word, fields.speaker or speaker
        if not word or (word.startswith((".", "_")) and word != NOISE_FOLDER):
            self._outside.setdefault(str(name.parent), []).append(name.name)
        else:
            yield Recording(f"{word}/{name.name}", path, audio, speaker)

    def _excerpts(self, path: Path, name: PurePosixPath, audio: Path, track: Path) -> Iterator[Recording]:
        """The labelled excerpts of a long recording. Their names contain its folders, so that they are unique."""
        try:
            with audio.open("rb") as file:
                length_s = codec.duration_s(file)
        except codec.AudioError as error:
            self.ignored.append(f"{path}: {name}: {error}")
            return
        except OSError as error:
            raise_unreadable(error, audio)
        labels = label_track.read(track, length_s)
        self.ignored += [f"{label.where}: an empty label" for label in labels if not label.word]
        for word, span in label_track.clip_spans(labels, length_s):
            file_name = name.with_name(excerpt_name(name.name, span)).as_posix()
            yield Recording(f"{word}/{file_name}", path, audio, speaker_of_long_recording(name.name), span)

    def _read_list(self, base: str, data: bytes) -> None:
        for line in data.decode("utf-8", errors="replace").split("\n"):
            if line.strip():
                self.split_of[to_nfc(line.strip())] = LISTS[base]


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


def _outside_line(path: Path, folder: str, names: Sequence[str]) -> str:
    """One line for a folder that names no word, which may hold thousands of files."""
    inside = "" if folder == "." else f"{folder}/"
    return f"{path}: {inside}{names[0]}: not in a word folder" + (f", and {len(names) - 1:,} more" if names[1:] else "")


def _size(path: Path) -> int:
    if path.is_dir():  # not rglob, which keeps every path in memory
        return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    if finding.is_table(path):
        return sum(recording.size for recording in Sources([path]))
    return path.stat().st_size


def _is_of_interest(base: str) -> bool:
    return base in LISTS or codec.is_audio(base) or base.rpartition(".")[2].lower() in _OTHER_AUDIO


def _folder_files(root: Path) -> Iterator[tuple[str, Path | None]]:
    """Names below the folder, with their paths; None for a broken link. Follows links to folders, unless they lead to a
    folder above."""
    for folder, folders, names in os.walk(root, onerror=raise_unreadable, followlinks=True):
        here = Path(folder).resolve()
        folders[:] = sorted(name for name in folders if not here.is_relative_to((here / name).resolve()))
        for path in (Path(folder, name) for name in sorted(names) if _is_of_interest(name)):
            yield path.relative_to(root).as_posix(), path if path.is_file() else None


class StrictInfo(tarfile.TarInfo):
    """Makes a damaged or missing header an error; tarfile itself takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _uncompressed(path: Path) -> IO[bytes]:
    """Opens the archive for reading. Reading a compressed file to its end compares its checksum."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(path))
    return cast(IO[bytes], lzma.open(path)) if magic == b"\xfd7zXZ\0" else path.open("rb")


def _archive_files(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Names in the archive, with their contents; None for a link. Raises UsageError for a damaged archive."""
    members = 0
    try:
        with _uncompressed(path) as whole, tarfile.open(fileobj=whole, mode="r|", tarinfo=StrictInfo) as tar:
            for member in tar:
                members += 1
                if _is_of_interest(PurePosixPath(member.name).name) and not member.isdir():
                    file = tar.extractfile(member) if member.isfile() else None
                    yield member.name.removeprefix("./"), file.read() if file else None
            while whole.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # not gzip's errors of content, which have no number
            raise unreadable(error, path) from error
        raise UsageError(
            f"{path}: damaged after {members} members, or not a tar archive ({error}); wanted a whole tar or tar.gz"
        ) from error
