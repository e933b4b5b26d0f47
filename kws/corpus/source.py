"""Corpora as people have them: folders of word folders, and tar archives of such folders.

    SRC... -> recordings one by one (word, speaker, bytes), and the official lists found on the way

Nothing is unpacked to disk. A recording's word is its folder's name; `_background_noise_` holds noises.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn, Self, cast

from kws.audio import codec
from kws.errors import UsageError

NOISE_FOLDER = "_background_noise_"
LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
_MAX_PER_CLASS = 2**27 - 1
_OTHER_AUDIO = frozenset({"aac", "amr", "m4a", "mp4", "webm", "wma", "3gp"})
"""Endings of sound that soundfile does not read: worth a word, where other files are passed over in silence."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One clip to be: `name` is WORD/FILE, `origin` the folder, archive or list it came from.

    `audio`: a file, which is read where it is decoded, or an archive's bytes. `speaker`: "" where nothing says who.
    `span`: of a longer file from where to where, in seconds.
    """

    name: str
    origin: Path
    audio: Path | bytes
    speaker: str = ""
    span: tuple[float, float] | None = None

    @property
    def word(self) -> str:
        """The folder's name."""
        return self.name.partition("/")[0]

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return len(self.audio) if isinstance(self.audio, bytes) else self.audio.stat().st_size

    def decode(self) -> codec.Pcm:
        """Its samples. Raises codec.AudioError for what is no sound, UsageError for a file that cannot be read."""
        pcm = codec.decode(self.audio if isinstance(self.audio, bytes) else _bytes_of(self.audio))
        if self.span is None:
            return pcm
        start, end = (round(seconds * codec.SAMPLE_RATE_HZ) for seconds in self.span)
        if not 0 <= start < min(end, len(pcm)):
            raise codec.AudioError(f"no sound from {self.span[0]} to {self.span[1]} s")
        return pcm[start:end]


@dataclasses.dataclass
class Sources:
    """Several folders or archives as one corpus. Iterating fills `split_of` and `ignored`."""

    paths: Sequence[Path]
    split_of: dict[str, str] = dataclasses.field(default_factory=dict)
    """WORD/FILE -> valid or test, from the lists."""
    ignored: list[str] = dataclasses.field(default_factory=list)
    """Audio that belongs to no word, with the reason."""

    def __post_init__(self) -> None:
        for path in self.paths:
            if not path.exists():
                raise UsageError(f"{path}: no such folder or archive; wanted a folder of word folders or a tar of one")

    @property
    def total_bytes(self) -> int:
        """Of the archives and folders as they lie on disk, for progress."""
        return sum(_size(path) for path in self.paths)

    def __iter__(self) -> Iterator[Recording]:
        for path in self.paths:
            found = 0
            for recording in self._of(path):
                found += 1
                yield recording
            if not found:
                raise UsageError(
                    f"{path}: no audio in word folders there; wanted WORD/FILE.wav (or flac, opus, ogg, mp3)"
                )

    def _of(self, path: Path) -> Iterator[Recording]:
        for name, content in _folder_files(path) if path.is_dir() else _archive_files(path):
            base = PurePosixPath(name).name
            if content is None:
                self.ignored.append(f"{path}: {name}: a link that leads nowhere, or one inside an archive")
            elif base in LISTS:
                self._read_list(base, content if isinstance(content, bytes) else _bytes_of(content))
            elif codec.is_audio(base):
                yield from self._recording(path, PurePosixPath(name), content)
            else:
                self.ignored.append(f"{path}: {name}: not a format that is read; convert it to wav or flac")

    def _recording(self, path: Path, name: PurePosixPath, audio: Path | bytes) -> Iterator[Recording]:
        word = name.parent.name
        if not word or (word.startswith((".", "_")) and word != NOISE_FOLDER):
            self.ignored.append(f"{path}: {name}: not in a word folder")
        elif str(name).encode(errors="replace").decode() != str(name):
            self.ignored.append(f"{path}: {str(name)!a}: the name is not UTF-8; rename it")
        else:
            yield Recording(f"{word}/{name.name}", path, audio, speaker_of(name.name))

    def _read_list(self, base: str, data: bytes) -> None:
        for line in data.decode("utf-8", errors="replace").split("\n"):
            if line.strip():
                self.split_of[line.strip()] = LISTS[base]


def speaker_of(name: str) -> str:
    """WORD/SPEAKER_nohash_N.wav -> SPEAKER; "" where the name does not say who."""
    found = re.match(r"(.+?)_nohash_", PurePosixPath(name).name)
    return found[1] if found else ""


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


def _size(path: Path) -> int:
    if path.is_dir():  # not by rglob, which remembers every path
        return sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    return path.stat().st_size


def _is_of_interest(base: str) -> bool:
    return base in LISTS or codec.is_audio(base) or base.rpartition(".")[2].lower() in _OTHER_AUDIO


def _folder_files(root: Path) -> Iterator[tuple[str, Path | None]]:
    """Names below the folder with their paths, None for a dead link. Linked folders count, unless they lead upwards."""
    for folder, folders, names in os.walk(root, onerror=_cannot_read, followlinks=True):
        here = Path(folder).resolve()
        folders[:] = sorted(name for name in folders if not here.is_relative_to((here / name).resolve()))
        for path in (Path(folder, name) for name in sorted(names) if _is_of_interest(name)):
            yield path.relative_to(root).as_posix(), path if path.is_file() else None


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _cannot_read(error)


def _cannot_read(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror}); wanted the right to read it") from error


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
