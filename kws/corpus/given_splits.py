"""The splits that the sources themselves give: by lists, tables, patterns, and folders."""

from __future__ import annotations

import collections

from kws.corpus.split_names import split_in


class GivenSplits(collections.UserDict[str, str]):
    """Name of a recording -> train, valid or test. Iterating yields the names that lists, tables and patterns give.

    folders: names of folders that are splits. They are the second part of the names of the recordings in them, so that
    these need no entry each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folders: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.data or self.folders)

    def __contains__(self, name: object) -> bool:
        return name in self.data or (isinstance(name, str) and self._folder(name) in self.folders)

    def __missing__(self, name: str) -> str:
        folder = self._folder(name)
        if folder not in self.folders:
            raise KeyError(name)
        return split_in(folder)

    def _folder(self, name: str) -> str:
        parts = name.split("/", 2)
        return parts[1] if len(parts) > 2 else ""
