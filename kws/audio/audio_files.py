"""Audio files as people have them: found below folders, decoded by threads ahead of who uses them.

paths -> chunks -> [threads] -> samples at 16 kHz, or why there are none; in order
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kws.audio import codec
from kws.errors import UsageError

_AHEAD_FILES, _AHEAD_BYTES = 32, 2**23
"""What a thread decodes at once: so many files, or so many bytes of them."""


class Skipped(NamedTuple):
    """A file that gave no sound, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.why}"


class Heard(NamedTuple):
    """A decoded file."""

    path: Path
    pcm: codec.Pcm


def decoded(paths: Iterable[Path]) -> Iterator[Heard | Skipped]:
    """The files in order, decoded by threads that are a few chunks ahead: libsndfile and soxr run beside Python."""
    threads = min(8, len(os.sched_getaffinity(0)))
    waiting: collections.deque[Future[list[Heard | Skipped]]] = collections.deque()
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
    """Of few files, and fewer where they are large."""
    chunk: list[Path] = []
    size = 0
    for path in paths:
        chunk.append(path)
        with contextlib.suppress(OSError):  # said when it is read
            size += path.stat().st_size
        if len(chunk) == _AHEAD_FILES or size > _AHEAD_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode(paths: Sequence[Path]) -> list[Heard | Skipped]:
    found: list[Heard | Skipped] = []
    for path in paths:
        try:
            found.append(Heard(path, codec.decode(path.read_bytes())))
        except (OSError, codec.AudioError) as error:
            found.append(Skipped(path, str((error.strerror if isinstance(error, OSError) else None) or error)))
    return found


def printable(path: Path) -> str:
    """A path for a terminal: line ends, escape sequences and bytes that are no text are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def find_audio(paths: Sequence[Path]) -> list[Path]:
    """The files, and all audio below the folders, each once. Raises UsageError for what is not there, and for folders
    without audio or that cannot be read."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder; wanted audio that soundfile reads (wav, flac, ogg, mp3)")
        inside = sorted(_below(path)) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"{path}: no audio there; wanted {', '.join(sorted(codec.EXTENSIONS))}")
        found += inside
    return list(dict.fromkeys(found))


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: {error.strerror}; wanted folders that can be read")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names if codec.is_audio(name))
