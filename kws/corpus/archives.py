"""The files of a source, one after another: of a folder, or of an archive (tar, also gz, bz2, xz, zst; zip).

    folder or archive -> SourceFile (name below it; a path, or the contents of a member) in a fixed order

Archives are not unpacked to disk; a tar is read as a stream. `member_names` gives the names alone, at once for a zip
and an uncompressed tar, else by decompressing it.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from kws.audio import formats
from kws.corpus.recording import raise_unreadable, read_file
from kws.errors import UsageError, unreadable

_ZIP, _ZSTD = b"PK", b"\x28\xb5\x2f\xfd"
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".zip")
_OTHER_ARCHIVES = {b"7z\xbc\xaf": "7z", b"Rar!": "rar"}
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError, NotImplementedError,
)  # fmt: skip


class SourceFile:
    """One file of a source. name: below the source, with / between folders. path: on disk; None in an archive.
    is_regular: False for a broken link, a special file, and a link in an archive. beside: names of the files in its
    folder on disk; None in an archive."""

    def __init__(
        self, source: Path, name: str, is_regular: bool, open_file: Callable[[], IO[bytes]],
        beside: frozenset[str] | None = None,
    ) -> None:  # fmt: skip
        self.name, self.is_regular, self.beside = name, is_regular, beside or frozenset()
        self.path = None if beside is None else source / name
        self._source = source
        self._open, self._head = open_file, b""
        self._member: IO[bytes] | None = None

    def head(self) -> bytes:
        """Its first bytes, from which kws.audio.formats finds its format. Raises UsageError where it cannot be read."""
        if self.path:
            try:
                with self._open() as file:
                    return file.read(formats.HEAD_BYTES)
            except OSError as error:
                raise_unreadable(error, self.path)
        if self._member is None:
            with _damage_named(f"{self._source}: damaged at {self.name}", self._source):
                self._member = self._open()
                self._head = self._member.read(formats.HEAD_BYTES)
        return self._head

    def read(self) -> bytes:
        """Its contents. Raises UsageError where a file cannot be read."""
        if self.path:
            return read_file(self.path)
        head = self.head()
        assert self._member
        with _damage_named(f"{self._source}: damaged at {self.name}", self._source):
            return head + self._member.read()

    @property
    def audio(self) -> Path | bytes:
        """What a Recording holds: the path of a file on disk, else the contents."""
        return self.path or self.read()


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


def is_archive(name: str) -> bool:
    """Whether the name ends like an archive that can be read."""
    return name.lower().endswith(_ENDINGS)


def walk(root: Path) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The folders below `root`, as the parts of their paths, and the names of the files in each, all sorted. Follows
    links to folders, unless they lead to a folder above."""
    for folder, folders, names in os.walk(root, onerror=raise_unreadable, followlinks=True):
        here = Path(folder).resolve()
        folders[:] = sorted(name for name in folders if not here.is_relative_to((here / name).resolve()))
        yield Path(folder).relative_to(root).parts, sorted(names)


def read(source: Path) -> Iterator[SourceFile]:
    """The files of a folder or an archive. Each is valid until the next is taken. Raises UsageError for a damaged
    archive, and for a folder that cannot be read."""
    if source.is_dir():
        return _folder_files(source)
    return _counted(source, _zip_files(source) if is_zip(source) else _tar_files(source))


def member_names(source: Path) -> Iterator[str]:
    """The names of the regular files of an archive. Raises UsageError for a damaged one."""
    files = _zip_files(source) if is_zip(source) else _tar_files(source, names_only=True)
    return (file.name for file in _counted(source, files) if file.is_regular)


def _counted(source: Path, files: Iterator[SourceFile]) -> Iterator[SourceFile]:
    """The files; errors of the archive's readers become a UsageError that counts the members read before."""
    members = 0
    while True:
        with _damage_named(f"{source}: damaged after {members} members, or not an archive", source):
            file = next(files, None)
        if file is None:
            return
        members += 1
        yield file


def is_zip(path: Path) -> bool:
    """Whether a file's first bytes are those of a zip. Raises UsageError where it cannot be read."""
    return _magic(path).startswith(_ZIP)


@contextlib.contextmanager
def _damage_named(what: str, source: Path | None = None) -> Iterator[None]:
    """Turns errors of the archive's readers into a UsageError."""
    try:
        yield
    except _damage() as error:
        if isinstance(error, OSError) and error.errno:  # not gzip's errors of content, which have no number
            raise unreadable(error, source) from error
        raise UsageError(f"{what} ({error}); wanted a whole tar (also gz, bz2, xz, zst) or zip") from error


def _damage() -> tuple[type[Exception], ...]:
    """What the archives' readers raise; that of zstandard only where an archive needed that package."""
    zstandard = sys.modules.get("zstandard")
    return (*_DAMAGE, zstandard.ZstdError) if zstandard else _DAMAGE


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise_unreadable(error, path)


def _folder_files(root: Path) -> Iterator[SourceFile]:
    for folder, names in walk(root):
        beside = frozenset(names)
        # Recordings first: the label tracks among the others are then known.
        for name in sorted(names, key=lambda name: (formats.name_kind(name) != "audio", name)):
            path = root.joinpath(*folder, name)
            yield SourceFile(root, "/".join((*folder, name)), path.is_file(), _opener(path), beside)


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: path.open("rb")


# --- tar --------------------------------------------------------------------------------------------------------


def _uncompressed(path: Path) -> IO[bytes]:
    """Opens the archive for reading. Reading a compressed file to its end compares its checksum."""
    magic = _magic(path)
    for other, name in _OTHER_ARCHIVES.items():
        if magic.startswith(other):
            raise UsageError(f"{path}: a {name} archive, which kws does not read; unpack it and give its folder")
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast(IO[bytes], bz2.open(path))
    if magic.startswith(_ZSTD):
        return _opened_zstd(path)
    return cast(IO[bytes], lzma.open(path)) if magic.startswith(b"\xfd7zXZ\0") else path.open("rb")


def _opened_zstd(path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise UsageError(
            f"{path}: reading .tar.zst needs the package zstandard: pip install zstandard, or unpack it first"
        ) from error
    return cast(IO[bytes], zstandard.open(path, "rb"))


def _tar_files(path: Path, names_only: bool = False) -> Iterator[SourceFile]:
    """The members of a tar. names_only: an uncompressed one is not read but for its headers."""
    with _uncompressed(path) as whole:
        seekable = names_only and isinstance(whole, io.BufferedReader)
        with tarfile.open(fileobj=whole, mode="r:" if seekable else "r|", tarinfo=StrictInfo) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps them all in memory
                if not member.isdir():
                    yield SourceFile(path, member.name.removeprefix("./"), member.isfile(), _extractor(tar, member))
            while not seekable and whole.read(1 << 20):
                pass


def _extractor(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: cast(IO[bytes], tar.extractfile(member))


# --- zip --------------------------------------------------------------------------------------------------------


def _zip_files(path: Path) -> Iterator[SourceFile]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if any(member.flag_bits & 1 for member in members):
            raise UsageError(f"{path}: encrypted; unpack it with its password and give its folder")
        for member in members:
            is_regular = not stat.S_ISLNK(member.external_attr >> 16)
            yield SourceFile(path, _zip_name(member), is_regular, _zip_opener(archive, member))


def guessed_name(path: Path) -> str:
    """The first name in a zip whose encoding is a guess: not ASCII, not UTF-8, and not marked as UTF-8; "" for none."""
    if not is_zip(path):
        return ""
    with _damage_named(f"{path}: damaged, or not an archive", path), zipfile.ZipFile(path) as archive:
        return next((_zip_name(member) for member in archive.infolist() if _is_guessed(member)), "")


def _is_guessed(member: zipfile.ZipInfo) -> bool:
    if member.flag_bits & 0x800 or member.filename.isascii():
        return False
    try:
        member.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return True
    return False


def _zip_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(member)


def _zip_name(member: zipfile.ZipInfo) -> str:
    """The name: programs that write UTF-8 without saying so are common, and some write Windows' separator."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    name = name if "/" in name else name.replace("\\", "/")
    return str(PurePosixPath(name.removeprefix("./")))
