"""Atomic file writes: a reader, or a run resumed after a kill, sees the old file or the new one, never a partial one.

write under a partial name -> (fsync) -> rename over the final name -> (fsync the folder)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replaced(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yields the name of a partial file beside `path`; the file written there replaces `path` after the with block.

    Where the block raises, the partial file is removed and `path` stays as it was. `durable`: fsync the file and its
    folder, so that the change also survives a power failure. Raises OSError, which names the file.
    """
    with _partial_beside(path) as partial:
        yield partial
        if durable:
            fsync(partial)
        partial.replace(path)
        if durable:
            fsync(path.parent)


@contextlib.contextmanager
def _partial_beside(path: Path) -> Iterator[Path]:
    # A random name: ranks on several hosts may write the same file of a run folder at once, and may share a process id.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)  # after an error, such as a full disk


def write_bytes(path: Path, data: bytes, durable: bool = False) -> None:
    """Replaces the contents of `path` atomically; `durable` as in `replaced`."""
    with replaced(path, durable) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Replaces the contents of `path` with text in UTF-8 atomically; `durable` as in `replaced`."""
    write_bytes(path, text.encode(), durable)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Replaces the contents of `path` with indented JSON atomically; `durable` as in `replaced`."""
    write_text(path, json_text(value), durable)


def json_text(value: Any) -> str:
    """Returns a value as indented JSON with a final newline: the format of all JSON files of a run folder."""
    return json.dumps(value, indent=1) + "\n"


def create_text(path: Path, text: str) -> None:
    """Creates `path` with `text`, whole, in UTF-8. Raises FileExistsError if the file exists.

    A hard link fails if another process was first, on network file systems too. On a file system without hard links the
    file is renamed into place, which replaces an existing one.
    """
    with _partial_beside(path) as partial:
        partial.write_bytes(text.encode())
        try:
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:
            partial.replace(path)


def names_in(folder: Path) -> list[str]:
    """Names in a folder; none where there is no folder. Raises OSError where it cannot be read, which Path.glob takes
    for an empty one."""
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def sha256(path: Path) -> str:
    """Returns the sha256 of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flushes a file, or a folder's list of names, from the page cache to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
