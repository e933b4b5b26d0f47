"""Audio files on disk: found below folders, decoded by threads ahead of the consumer.

paths -> chunks of files -> [threads] -> 16 kHz samples, or the reason why a file was skipped; in order
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kws.audio import codec, formats
from kws.errors import UsageError, unreadable
from kws.machine import usable_cores
from kws.system_errors import refusal

_CHUNK_FILES, _CHUNK_BYTES = 32, 2**23
"""A thread's unit of work: at most so many files, fewer where they are larger than so many bytes together."""
_MOST_THREADS = 8


class SkippedFile(NamedTuple):
    """A file that could not be decoded, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


class DecodedFile(NamedTuple):
    """A file, its samples, and remarks about them (kws.audio.remarks)."""

    path: Path
    pcm: codec.Pcm
    remarks: tuple[str, ...] = ()


def decode_files(paths: Iterable[Path]) -> Iterator[DecodedFile | SkippedFile]:
    """Decodes the files and yields them in order.

    Threads work a few chunks ahead; libsndfile and soxr release Python's lock.
    """
    threads = min(_MOST_THREADS, usable_cores())
    waiting: collections.deque[Future[list[DecodedFile | SkippedFile]]] = collections.deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for chunk in _chunks(paths):
            waiting.append(pool.submit(_decode, chunk))
            if len(waiting) > threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(paths: Iterable[Path]) -> Iterator[list[Path]]:
    chunk: list[Path] = []
    size = 0
    for path in paths:
        chunk.append(path)
        with contextlib.suppress(OSError):  # reported when the file is read
            size += path.stat().st_size
        if len(chunk) == _CHUNK_FILES or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode(paths: Sequence[Path]) -> list[DecodedFile | SkippedFile]:
    files: list[DecodedFile | SkippedFile] = []
    for path in paths:
        try:
            decoded = codec.decode_with_remarks(path.read_bytes())
            files.append(DecodedFile(path, decoded.pcm, decoded.remarks))
        except codec.AudioError as error:
            files.append(SkippedFile(path, str(error)))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # no fault of this file
                raise unreadable(error, path) from error
            files.append(SkippedFile(path, refusal(error) or error.strerror or str(error)))
    return files


def printable(path: Path) -> str:
    """The path with line ends, escape sequences and undecodable bytes escaped, so that it is safe on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def find_audio(paths: Sequence[Path]) -> list[Path]:
    """The given files, and all audio files below the given folders, each once.

    Raises UsageError for a path that does not exist, and for a folder that has no audio or cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; wanted audio (wav, flac, ogg, mp3, ...)")
        inside = sorted(_audio_below(path)) if path.is_dir() else [path]
        if not inside:
            raise UsageError(
                f"{path}: no audio there; wanted {', '.join(sorted(formats.EXTENSIONS))}, or what ffmpeg reads"
            )
        found += inside
    return list(dict.fromkeys(found))


def _audio_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(error)

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names if _is_audio(Path(parent, name)))


def _is_audio(path: Path) -> bool:
    """Whether the file holds sound, by its name or, where the name does not decide, by its first bytes."""
    kind = formats.name_kind(path.name)
    if kind != "maybe":
        return kind == "audio" and not path.name.startswith("._")  # macOS's metadata beside a file
    try:
        with path.open("rb") as file:
            return formats.audio_format(file.read(formats.HEAD_BYTES)) is not None
    except OSError:
        return False
