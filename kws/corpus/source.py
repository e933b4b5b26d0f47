"""Corpora as people have them: folders of word folders, tar archives of such folders, tables of clips.

    SRC... -> recordings one by one (word, speaker, bytes or file), and the splits that lists or a table say

Nothing is unpacked to disk. A recording's word is its folder's name, or what its own name, its label track or the table
says; `_background_noise_` holds noises.
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
from kws.corpus import clips_csv, label_track
from kws.corpus.name_pattern import NamePattern
from kws.corpus.recording import (
    NOISE_FOLDER,
    Recording,
    bytes_of,
    cannot_read,
    composed,
    cut_name,
    speaker_of,
    speaker_of_long,
)  # fmt: skip
from kws.errors import UsageError

__all__ = ["NOISE_FOLDER", "Recording", "Sources", "StrictInfo", "speaker_of", "split_by_hash", "split_key"]

LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
_MAX_PER_CLASS = 2**27 - 1
_OTHER_AUDIO = frozenset({"aac", "amr", "m4a", "mp4", "webm", "wma", "3gp"})
"""Endings of sound that soundfile does not read: worth a word, where other files are passed over in silence."""


@dataclasses.dataclass
class Sources:
    """Several folders, archives or tables as one corpus. Iterating fills `split_of` and `ignored`.

    `names`: what file names say, as kws.corpus.name_pattern has it; "": only who speaks, before `_nohash_`.
    """

    paths: Sequence[Path]
    names: str = ""
    split_of: dict[str, str] = dataclasses.field(default_factory=dict)
    """WORD/FILE -> valid or test, from the lists; also train, from a table."""
    ignored: list[str] = dataclasses.field(default_factory=list)
    """Audio that belongs to no word, with the reason."""

    def __post_init__(self) -> None:
        self._pattern = NamePattern(composed(self.names)) if self.names else None
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
                    f"{path}: one audio file; give its folder, in which folders, names or label tracks say the words"
                )

    @property
    def total_bytes(self) -> int:
        """Of the archives and folders as they lie on disk, for progress."""
        return sum(_size(path) for path in self.paths)

    def __iter__(self) -> Iterator[Recording]:
        for path in self.paths:
            found = 0
            self._outside: dict[str, list[str]] = {}
            for recording in self._of(path):
                found += 1
                yield recording
            self.ignored += [_not_words(path, folder, names) for folder, names in self._outside.items()]
            if not found:
                raise UsageError(self._nothing_in(path))

    def _nothing_in(self, path: Path) -> str:
        if _is_table(path):
            return f"{path}: no clips in it; wanted a line for each below the header"
        if self._pattern:
            such = f" (such as {self.ignored[0].rpartition(': ')[0]})" if self.ignored else ""
            return f"{path}: no recording there that is named as --names {self.names!r} says{such}"
        return (
            f"{path}: no audio in word folders there; wanted WORD/FILE.wav (or flac, opus, ogg, mp3), or "
            "--names '{word}_{}' where the files' names say the word"
        )

    def _of(self, path: Path) -> Iterator[Recording]:
        if _is_table(path):
            yield from self._of_table(path)
            return
        for spelt, content in _folder_files(path) if path.is_dir() else _archive_files(path):
            name = composed(spelt)
            base = PurePosixPath(name).name
            track = label_track.beside(content) if isinstance(content, Path) and codec.is_audio(base) else None
            if content is None:
                self.ignored.append(f"{path}: {name}: a link that leads nowhere, or one inside an archive")
            elif base in LISTS:
                self._read_list(base, content if isinstance(content, bytes) else bytes_of(content))
            elif not codec.is_audio(base):
                self.ignored.append(f"{path}: {name}: not a format that is read; convert it to wav or flac")
            elif str(name).encode(errors="replace").decode() != str(name):
                self.ignored.append(f"{path}: {str(name)!a}: the name is not UTF-8; rename it")
            elif track and isinstance(content, Path):
                yield from self._cuts(path, PurePosixPath(name), content, track)
            else:
                yield from self._recording(path, PurePosixPath(name), content)

    def _of_table(self, path: Path) -> Iterator[Recording]:
        rows = clips_csv.read(path)
        for row, name in zip(rows, clips_csv.names(rows), strict=True):
            speaker = row.speaker or (speaker_of_long if row.span else speaker_of)(row.file)
            if row.split:
                self.split_of[name] = row.split
            yield Recording(name, path, row.path, speaker, row.span)

    def _recording(self, path: Path, name: PurePosixPath, audio: Path | bytes) -> Iterator[Recording]:
        word, speaker = name.parent.name, speaker_of(name.name)
        if self._pattern and word != NOISE_FOLDER:
            said = self._pattern.read(name.stem)
            if said is None:
                self.ignored.append(f"{path}: {name}: not named as --names {self.names!r} says")
                return
            word, speaker = said.word or word, said.speaker or speaker
        if not word or (word.startswith((".", "_")) and word != NOISE_FOLDER):
            self._outside.setdefault(str(name.parent), []).append(name.name)
        else:
            yield Recording(f"{word}/{name.name}", path, audio, speaker)

    def _cuts(self, path: Path, name: PurePosixPath, audio: Path, track: Path) -> Iterator[Recording]:
        """The clips of a long recording; their names have its folders, so that they are unique."""
        try:
            with audio.open("rb") as file:
                length_s = codec.duration_s(file)
        except codec.AudioError as error:
            self.ignored.append(f"{path}: {name}: {error}")
            return
        except OSError as error:
            cannot_read(error)
        labels = label_track.read(track, length_s)
        self.ignored += [f"{label.where}: a label without a word" for label in labels if not label.word]
        for word, span in label_track.cuts(labels, length_s):
            file_name = name.with_name(cut_name(name.name, span)).as_posix()
            yield Recording(f"{word}/{file_name}", path, audio, speaker_of_long(name.name), span)

    def _read_list(self, base: str, data: bytes) -> None:
        for line in data.decode("utf-8", errors="replace").split("\n"):
            if line.strip():
                self.split_of[composed(line.strip())] = LISTS[base]


def split_key(name: str, speaker: str) -> str:
    """What the hash rule decides on: the speaker, else the file's name without its ending."""
    return speaker or PurePosixPath(name).stem


def split_by_hash(key: str, valid_percent: float = 10.0, test_percent: float = 10.0) -> str:
    """The official rule of Speech Commands (Warden 2018, section 6): SHA-1 of the speaker decides, for good."""
    number = int(hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest(), 16) % (_MAX_PER_CLASS + 1)
    percent = number * 100.0 / _MAX_PER_CLASS
    if percent < valid_percent:
        return "valid"
    return "test" if percent < valid_percent + test_percent else "train"


def _not_words(path: Path, folder: str, names: Sequence[str]) -> str:
    """Of a folder that names no word: there may be thousands of files in it."""
    inside = "" if folder == "." else f"{folder}/"
    return f"{path}: {inside}{names[0]}: not in a word folder" + (f", and {len(names) - 1:,} more" if names[1:] else "")


def _is_table(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in clips_csv.ENDINGS


def _size(path: Path) -> int:
    if path.is_dir():  # not by rglob, which remembers every path
        return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    if _is_table(path):
        return sum(recording.size for recording in Sources([path]))
    return path.stat().st_size


def _is_of_interest(base: str) -> bool:
    return base in LISTS or codec.is_audio(base) or base.rpartition(".")[2].lower() in _OTHER_AUDIO


def _folder_files(root: Path) -> Iterator[tuple[str, Path | None]]:
    """Names below the folder with their paths, None for a dead link. Linked folders count, unless they lead upwards."""
    for folder, folders, names in os.walk(root, onerror=cannot_read, followlinks=True):
        here = Path(folder).resolve()
        folders[:] = sorted(name for name in folders if not here.is_relative_to((here / name).resolve()))
        for path in (Path(folder, name) for name in sorted(names) if _is_of_interest(name)):
            yield path.relative_to(root).as_posix(), path if path.is_file() else None


class StrictInfo(tarfile.TarInfo):
    """A header that is damaged or missing is an error; tarfile itself takes it for the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _uncompressed(path: Path) -> IO[bytes]:
    """Opens the archive for reading. Read to its end, a compressed file is checked against its own checksum."""
    with path.open("rb") as file:
        magic = file.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(path))
    return cast(IO[bytes], lzma.open(path)) if magic == b"\xfd7zXZ\0" else path.open("rb")


def _archive_files(path: Path) -> Iterator[tuple[str, bytes | None]]:
    """Names in the archive with their bytes, None for a link."""
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
        raise UsageError(
            f"{path}: damaged after {members} members, or not a tar archive ({error}); wanted a whole tar or tar.gz"
        ) from error
