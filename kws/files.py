"""Writing files so that a reader, or a run resumed after a kill, sees the old file or the new one and never a part.

write under a partial name -> (fsync) -> rename over the final name -> (fsync the folder)
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replaced(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yields a partial name beside `path`; what was written there becomes `path` at the end of the with block.

    The partial file is removed where the block raises. `durable`: fsync the file and its folder, so that the change
    also survives a power failure. Raises OSError naming the file.
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
    """Replaces the contents of `path`."""
    with replaced(path, durable) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Replaces the contents of `path`, in UTF-8."""
    write_bytes(path, text.encode(), durable)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Replaces the contents of `path` with indented JSON."""
    write_text(path, json_text(value), durable)


def json_text(value: Any) -> str:
    """Indented JSON with a final newline, as all JSON files of a run folder have it."""
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


def fsync(path: Path) -> None:
    """Writes a file, or a folder's list of names, to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
