"""Folders of long recordings without the words (`kws pack --negatives`): speech, radio, music, any other sound.

    folder -> audio files -> units: folders of speakers, or files -> train, valid, test -> pieces of ten minutes

All recordings of a unit are in one split. Long recordings are cut into pieces, so that packing needs little memory and
a shard has several of them; only windows across a cut are lost.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from kws.audio import codec, formats
from kws.corpus import archives
from kws.corpus.left_out import HIDDEN, LeftOut
from kws.corpus.recording import NEGATIVES_FOLDER, Recording, Span, excerpt_name, raise_unreadable, to_nfc
from kws.corpus.source import hash_percent
from kws.corpus.split_names import split_called, split_in
from kws.corpus.survey import is_hidden
from kws.errors import UsageError

PIECE_S, _LONGEST_WHOLE_S = 600.0, 900.0
"""Seconds: the longest piece; and the longest recording that is packed whole."""
_LEAST_FOLDERS = 10
"""The folders of a level are taken for speakers if there are at least so many."""


@dataclasses.dataclass(frozen=True)
class _File:
    """An audio file. source: the folder of --negatives. name: its path below that, in Unicode form NFC. path: of the
    file."""

    source: Path
    name: PurePosixPath
    path: Path


@dataclasses.dataclass
class Negatives:
    """Folders of long recordings. Iterating yields their pieces as recordings, and fills `left_out` and `notes`.

    percents: shares of the units in valid and test, in %. known_split: returns the split of a unit in the corpus that
    is added to; None where the corpus does not have the unit. Raises UsageError for a path that is no folder, and for
    two folders of the same name.
    """

    paths: Sequence[Path]
    percents: tuple[float, float] = (10.0, 10.0)
    known_split: Callable[[str], str | None] = lambda unit: None
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    notes: list[str] = dataclasses.field(default_factory=list)
    """How the recordings were divided into splits."""

    def __post_init__(self) -> None:
        names = collections.Counter(path.resolve().name for path in self.paths)
        for path in self.paths:
            if not path.is_dir():
                raise UsageError(f"--negatives {path}: wanted a folder of long recordings without the words")
            if names[path.resolve().name] > 1:
                raise UsageError(
                    f"--negatives: two folders are called {path.resolve().name}; rename one, as recordings are named "
                    "after it"
                )

    @property
    def total_bytes(self) -> int:
        """Bytes of all files in the folders, for progress bars."""
        return sum(
            path.joinpath(*folder, name).lstat().st_size
            for path in self.paths
            for folder, names in archives.walk(path)
            for name in names
        )

    def __iter__(self) -> Iterator[Recording]:
        """Raises UsageError where a folder cannot be read or has no audio."""
        if not self.paths:
            return
        found, units = list[_File](), list[str]()
        given = dict[str, str]()
        for path in self.paths:
            inside = list(self._files(path))
            if not inside:
                raise UsageError(f"--negatives {path}: no audio there; wanted long recordings without the words")
            names, splits = units_of([file.name for file in inside])
            found += inside
            units += [unit_name(path, name) for name in names]
            given |= {unit_name(path, name): split for name, split in splits.items()}
        splits = assign_splits(dict.fromkeys(units), self.percents, self.known_split) | given
        self.notes = [_note(units, splits)]
        for file, unit in zip(found, units, strict=True):
            yield from _pieces(file, unit, splits[unit])

    def _files(self, root: Path) -> Iterator[_File]:
        """The audio files below a folder, sorted; all others are counted."""
        for folder, names in archives.walk(root):
            for name in names:
                path, shown = root.joinpath(*folder, name), "/".join((*folder, name))
                if is_hidden(folder, name):
                    self.left_out.passed_over(root, shown, HIDDEN, "hidden")
                elif _is_audio(path):
                    yield _File(root, PurePosixPath(*map(to_nfc, (*folder, name))), path)
                else:
                    self.left_out.no_audio(root, shown)


def _is_audio(path: Path) -> bool:
    """Whether a file is audio, by the ending of its name or its first bytes."""
    kind = formats.name_kind(path.name)
    if kind != "maybe":
        return kind == "audio"
    try:
        with path.open("rb") as file:
            return formats.audio_format(file.read(formats.HEAD_BYTES)) is not None
    except OSError as error:
        raise_unreadable(error, path)


# --- splits -----------------------------------------------------------------------------------------------------


def unit_name(source: Path, name: str) -> str:
    """The name of a unit in the corpus, which is that of no speaker of words: negatives:FOLDER/1089."""
    return f"negatives:{source.resolve().name}/{name}"


def units_of(names: Sequence[PurePosixPath]) -> tuple[list[str], dict[str, str]]:
    """The unit of each file of a folder, and the split of each unit if there are folders called train, valid and test.

    Units are the folders of the first level that has ten or more, such as the speakers of LibriSpeech; where there is
    no such level, every file is one.
    """
    folders = [name.parts[:-1] for name in names]
    depths = range(1, max(map(len, folders)) + 1)
    level = next((depth for depth in depths if _num_folders(folders, depth) >= _LEAST_FOLDERS), None)
    units = [
        "/".join(folder[:level]) if level and len(folder) >= level else str(name.with_suffix(""))
        for folder, name in zip(folders, names, strict=True)
    ]
    split_level = next((depth for depth in depths if _are_splits({folder[depth - 1 : depth] for folder in folders})), 0)
    if not split_level:
        return units, {}
    if level and level <= split_level:
        units = [str(name.with_suffix("")) for name in names]
    return units, {unit: split_in(folder[split_level - 1]) for unit, folder in zip(units, folders, strict=True)}


def _num_folders(folders: Sequence[tuple[str, ...]], depth: int) -> int:
    return len({folder[:depth] for folder in folders if len(folder) >= depth})


def _are_splits(names: set[tuple[str, ...]]) -> bool:
    """Whether the folders of a level, each in a tuple, are splits: two or more, and every file is in one."""
    found = {split_called(name[0]) or split_in(name[0]) if name else "" for name in names}
    return "" not in found and len(found) > 1


def assign_splits(
    units: Mapping[str, object], percents: tuple[float, float], known_split: Callable[[str], str | None]
) -> dict[str, str]:
    """The split of each unit: that of the corpus if it has the unit, else by the hash of the unit's name.

    If valid or test would be empty, the unit of train with the lowest hash moves there, unless it is the last of train.
    """
    known = {unit: split for unit in units if (split := known_split(unit))}
    order = sorted(units, key=lambda unit: (hash_percent(unit), unit))
    splits = {unit: known.get(unit) or _by_hash(unit, percents) for unit in order}
    for split, percent in zip(("valid", "test"), percents, strict=True):
        movable = [unit for unit in order if splits[unit] == "train" and unit not in known]
        num_train = sum(found == "train" for found in splits.values())
        if percent and split not in splits.values() and not known and num_train > 1:
            splits[movable[0]] = split
    if "train" not in splits.values() and not known:
        splits[order[-1]] = "train"
    return splits


def _by_hash(unit: str, percents: tuple[float, float]) -> str:
    valid, test = percents
    percent = hash_percent(unit)
    return "valid" if percent < valid else "test" if percent < valid + test else "train"


def _note(units: Sequence[str], splits: Mapping[str, str]) -> str:
    """How many recordings and units each split has."""
    files, parts = collections.Counter(splits[unit] for unit in units), collections.Counter(splits.values())
    is_by_file = len(parts) and sum(parts.values()) == len(units)
    shown = [
        f"{split} {files[split]:,}" + ("" if is_by_file else f" (of {parts[split]:,} folders)")
        for split in ("train", "valid", "test")
    ]
    lacking = [split for split in ("train", "valid", "test") if not files[split]]
    advice = f"; {' and '.join(lacking)} have none: give three recordings or more" if lacking else ""
    how = "file" if is_by_file else "folder"
    return f"negatives: {len(units):,} recordings, split by {how}: {', '.join(shown)}{advice}"


# --- pieces -----------------------------------------------------------------------------------------------------


def _pieces(file: _File, unit: str, split: str) -> Iterator[Recording]:
    """The pieces of a recording. One whose length is unknown is read whole, which reports what is wrong with it."""
    name = PurePosixPath(NEGATIVES_FOLDER, file.source.resolve().name, file.name)
    for span in _spans(file.path):
        piece = name if span is None else name.with_name(excerpt_name(name.name, span))
        yield Recording(piece.as_posix(), file.source, file.path, unit, span, split)


def _spans(path: Path) -> Sequence[Span | None]:
    try:
        with path.open("rb") as sound:
            length_s = codec.duration_s(sound)
    except codec.AudioError:
        return [None]
    except OSError as error:
        raise_unreadable(error, path)
    return spans(length_s)


def spans(length_s: float) -> Sequence[Span | None]:
    """The pieces of a recording of that length, in seconds; None: it is packed whole."""
    if length_s <= _LONGEST_WHOLE_S:
        return [None]
    count = math.ceil(length_s / PIECE_S)
    edges = [math.floor(1000.0 * length_s * number / count) / 1000.0 for number in range(count + 1)]
    return list(itertools.pairwise(edges))
