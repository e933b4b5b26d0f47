"""Where the audio files of a table are: paths may be relative to its folder, to another one, or from another machine.

    some rows' paths -> one rule for the whole table (a folder, how many parts of each path, an ending) -> each path

One rule for all rows, so that a missing file is never taken for another one of the same name elsewhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence

from kws.corpus.tables.place import Folder, Place

_SUBFOLDERS = ("audio", "clips", "wavs", "wav", "audios", "recordings", "data")
_ENDINGS = (".mp3", ".wav", ".flac", ".opus", ".ogg")
_SAMPLE, _SCANNED = 64, 4096
_PARENTS = 3
_BARE, _BESIDE = 8, 256
_WINDOWS = re.compile(r"^[A-Za-z]:/")


@dataclasses.dataclass(frozen=True)
class PathRule:
    """How a table's paths become paths in its place: the folder they are relative to, the number of their last parts
    that are used (0: all), and an ending that is added (`+.mp3`) or that replaces theirs (`.wav`); "" for neither."""

    folder: str
    parts: int = 0
    ending: str = ""
    is_windows: bool = False

    def __post_init__(self) -> None:
        is_plain = not (self.parts or self.ending or self.is_windows)
        object.__setattr__(self, "_prefix", (f"{self.folder}/" if self.folder else "") if is_plain else None)

    def apply(self, written: str) -> str:
        """The path of the audio file in the place."""
        prefix: str | None = self._prefix  # type: ignore[attr-defined]
        if prefix is not None and written[:1] != "/" and "./" not in written and "//" not in written:
            return prefix + written  # the usual case, as tables may have millions of rows
        path = written.replace("\\", "/") if self.is_windows else written
        if self.parts:
            path = "/".join(_parts(path)[-self.parts :])
        if self.ending.startswith("+"):
            path += self.ending[1:]
        elif self.ending:
            path = posixpath.splitext(path)[0] + self.ending
        path = posixpath.join(self.folder, path)
        return posixpath.normpath(path) if "./" in path or "//" in path else path

    def describe(self, usual_folder: str) -> str:
        """What is unusual about it, in words; "" where paths are used as written, relative to the usual folder."""
        words = []
        if self.parts:
            words.append(f"only the last {self.parts} parts of each path fit" if self.parts > 1 else
                         "only the file name of each path fits")  # fmt: skip
        if self.folder.rstrip("/") != usual_folder.rstrip("/"):
            words.append(f"its paths are relative to {self.folder or 'the folder above'}")
        if self.ending:
            words.append(f"its paths are read with the ending {self.ending.lstrip('+')}")
        return "; ".join(words)


def find_rule(place: Place, table_folder: str, written: Iterable[str]) -> PathRule | None:
    """The rule that finds most files of a sample of the paths; of several, the nearest to the paths as they are
    written. None where no file is found."""
    paths = list(itertools.islice(filter(None, written), _SCANNED))
    sample = paths[:: max(1, len(paths) // _SAMPLE)][:_SAMPLE]
    if not sample:
        return PathRule(table_folder)
    return _best(place, table_folder, sample) or _best(place, table_folder, paths)


def _best(place: Place, table_folder: str, sample: Sequence[str]) -> PathRule | None:
    best, most = None, 0
    for rule in _rules(place, table_folder, sample):
        found = sum(place.is_file(rule.apply(path)) for path in sample)
        if found > most:
            best, most = rule, found
        if most == len(sample):
            break
    return best


def _rules(place: Place, table_folder: str, sample: Sequence[str]) -> Iterator[PathRule]:
    """From paths as they are written to paths of which only the file's name is used."""
    is_windows = all("/" not in path for path in sample) and any("\\" in path for path in sample)
    folders = [*_folders(place, table_folder), *_the_only_folder(place, table_folder, sample)]
    endings = ("", *(f"+{ending}" for ending in _ENDINGS), *_ENDINGS)
    depth = max(len(_parts(path.replace("\\", "/") if is_windows else path)) for path in sample)
    for parts in (0, *range(min(depth - 1, 8), 0, -1)):
        for folder, ending in itertools.product(folders, endings):
            yield PathRule(folder, parts, ending, is_windows)


def _folders(place: Place, table_folder: str) -> Iterator[str]:
    """The table's folder, usual folders in it, folders above it with their usual folders, and the current folder."""
    above = table_folder
    for _ in range(_PARENTS + 1):
        yield above
        for name in _SUBFOLDERS:
            path = posixpath.join(above, name)
            if place.is_folder(path):
                yield path
        if not above:
            break
        above = posixpath.dirname(above)
    if isinstance(place, Folder):
        here = os.path.abspath(place.root)  # noqa: PTH100  # links are not resolved
        for _ in range(_PARENTS):
            here = posixpath.dirname(here)
            if here != "/":
                yield here
        yield os.getcwd()  # noqa: PTH109


def _the_only_folder(place: Place, table_folder: str, sample: Sequence[str]) -> list[str]:
    """The folder beside the table that has the files, where a path is a mere name; none where several have some, as
    they may have equal names."""
    bare = [path for path in sample[:_BARE] if "/" not in path and "\\" not in path]
    if not bare:
        return []
    beside = [posixpath.join(table_folder, name) for name in place.list(table_folder)[0][:_BESIDE]]
    endings = ("", *_ENDINGS)
    holding = [
        folder
        for folder in beside
        if any(place.is_file(posixpath.join(folder, path + ending)) for path in bare for ending in endings)
    ]
    return holding if len(holding) == 1 else []


def _parts(path: str) -> list[str]:
    return [part for part in _WINDOWS.sub("", path).split("/") if part not in ("", ".")]
