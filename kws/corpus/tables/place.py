"""Where tables and the audio files that they name lie: a folder. An archive can stand in for one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import IO, Protocol

from kws.corpus.recording import raise_unreadable


class Place(Protocol):
    """A folder, or an archive that is read like one. Paths are relative to it, with slashes; "" is the place itself."""

    @property
    def name(self) -> str:
        """Its path, for messages."""

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files directly in a folder, each sorted."""

    def open(self, path: str) -> IO[bytes]:
        """Opens a file for reading. Raises UsageError where it cannot be read."""

    def is_file(self, path: str) -> bool:
        """Whether there is a file at the path."""

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder at the path."""


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder on disk. Paths may also be absolute, or lead out of it through `..`."""

    root: Path

    @property
    def name(self) -> str:
        """Its path, for messages."""
        return str(self.root)

    def list(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the files directly in a folder, each sorted."""
        folders, files = list[str](), list[str]()
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir() else files).append(entry.name)
        except OSError as error:
            raise_unreadable(error)
        return sorted(folders), sorted(files)

    def open(self, path: str) -> IO[bytes]:
        """Opens a file for reading. Raises UsageError where it cannot be read."""
        try:
            return (self.root / path).open("rb")
        except OSError as error:
            raise_unreadable(error)

    def is_file(self, path: str) -> bool:
        """Whether there is a file at the path."""
        # Path.is_file raises for long names. This is called for every row of a table.
        return os.path.isfile(path if path[:1] == "/" else f"{self.root}/{path}")  # noqa: PTH113

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder at the path."""
        return os.path.isdir(os.path.join(self.root, path))  # noqa: PTH112, PTH118
