"""The index beside the shards: for every clip where it lies and what it is, in memory-mapped columns.

    DIR/{train,valid,test,noise}/NNNNNN.tar      the shards
    DIR/index/index.json                         words, splits, shards with sha256, content id, source; written last
    DIR/index/SPLIT/COLUMN.npy                   one value a clip; a clip's id is its row in its split
    DIR/index/SPLIT/cells.npy                    clips of each word in each shard, (shards, words)

Rows follow the shards in order, so a shard is a run of rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws.errors import UsageError

VERSION = 2
SPLITS = ("train", "valid", "test", "noise")
COLUMNS = {
    "shard": np.uint32,  # which of the split's shards
    "offset": np.uint64,  # bytes from the shard's start to the audio member's first byte
    "length": np.uint32,  # bytes of the audio member
    "samples": np.uint32,  # at 16 kHz
    "plain": np.uint8,  # 1: PCM16 mono 16 kHz after a 44-byte header, readable without decoding
    "word": np.uint32,  # into Index.words; 0 in noise
    "speaker": np.uint32,  # into Index.speakers
    "crc32": np.uint32,  # of the audio member
    "name": np.uint64,  # of the clip's key in its tar, hashed: the same wherever and however it is packed
    "sound": np.uint64,  # of its samples, hashed: two clips with the same are the same recording
}
Column = npt.NDArray[Any]
_PIECE = 1 << 20
"""Rows."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One tar: its name below the corpus folder, size, clips, first row and sha256."""

    name: str
    bytes: int
    clips: int
    start: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split's shards and columns (each (clips,), memory-mapped) and `cells` (shards, words)."""

    name: str
    shards: tuple[Shard, ...]
    columns: Mapping[str, Column]
    cells: Column

    def __len__(self) -> int:
        return len(self.columns["shard"])

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """Ids of the clips that a plan draws together with the shard of that number: those that lie in it."""
        shard = self.shards[number]
        return np.arange(shard.start, shard.start + shard.clips)

    def values(self, column: str, rows: npt.ArrayLike) -> Column:
        """What the column of that name has of these clips."""
        return self.columns[column][rows]  # type: ignore[index]

    def pieces(self, *columns: str) -> Iterator[tuple[Column, ...]]:
        """These columns from end to end, some rows at a time. Each piece is mapped by itself, and its pages given back
        with it: going over 100 million clips leaves nothing in memory."""
        for low in range(0, len(self.columns["shard"]), _PIECE):
            yield tuple(_piece(self.columns[name], low) for name in columns)


@dataclasses.dataclass(frozen=True)
class Index:
    """A corpus: its folder, words, speakers, splits and content id; `source` where the shards lie elsewhere.

    source "": below the folder; else a base address that their names are joined to (kws.data.shard_fetch.Source).
    """

    root: Path
    words: tuple[str, ...]
    content_id: str
    splits: Mapping[str, Split]
    source: str = ""

    @functools.cached_property
    def speakers(self) -> Column:
        """Names of the speakers, (number of speakers,) of fixed-width bytes."""
        return np.asarray(np.load(self.root / "index" / "speakers.npy", mmap_mode="r"))

    def split(self, name: str) -> Split:
        """A split by its name; an empty or unknown one is a UsageError."""
        found = self.splits.get(name)
        if found is None or len(found) == 0:
            there = ", ".join(key for key, split in self.splits.items() if len(split)) or "none"
            raise UsageError(f"{self.root}: no clips in split {name!r}; splits with clips: {there}")
        return found


def _piece(column: Column, low: int) -> Column:
    rows = column[low : low + _PIECE]
    if not isinstance(column, np.memmap) or column.filename is None:
        return rows
    return np.memmap(column.filename, column.dtype, "r", column.offset + low * column.itemsize, rows.shape)


def load(root: Path) -> Index:
    """Opens the index of a packed corpus. Raises UsageError where there is none or it is damaged."""
    path = root / "index" / "index.json"
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        if head["format"] != "kws-index" or head["version"] != VERSION:
            raise UsageError(
                f"{path}: version {head['version']} of the index, wanted {VERSION}; pack again with kws pack"
            )
        splits = {name: _load_split(root, name, entry["shards"]) for name, entry in head["splits"].items()}
        return Index(root, tuple(head["words"]), head["content_id"], splits, str(head.get("source", "")))
    except FileNotFoundError as error:
        raise UsageError(
            f"{root}: no packed corpus there (no {Path(error.filename).name}); make one with kws pack {_how(root)}"
        ) from error
    except (OSError, EOFError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path}: damaged index ({error}); pack again with kws pack") from error


def _how(root: Path) -> str:
    """What a folder with something in it may be: recordings."""
    there = root.is_dir() and any(root.iterdir())
    return f"{root} SHARDS, if these are recordings" if there else f"SRC... {root}"


def _load_split(root: Path, name: str, shards: Sequence[Mapping[str, Any]]) -> Split:
    folder = root / "index" / name
    columns = {column: np.load(folder / f"{column}.npy", mmap_mode="r") for column in COLUMNS}
    entries = tuple(Shard(**entry) for entry in shards)
    clips = sum(shard.clips for shard in entries)
    for column, values in columns.items():
        if values.shape != (clips,):
            raise UsageError(f"{folder / column}.npy: {values.shape[0]} rows, wanted {clips}; pack again with kws pack")
    return Split(name, entries, columns, np.load(folder / "cells.npy", mmap_mode="r"))


def write(
    root: Path, words: Sequence[str], speakers: Sequence[str], splits: Mapping[str, Split], source: str = ""
) -> Index:
    """Writes the index of `root`; index.json comes last and whole, so that a torn write is never taken for an index.

    `source`: as Index.source has it.
    """
    folder = root / "index"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "speakers.npy", np.array([name.encode() for name in speakers] or [b""]))
    for name, split in splits.items():
        (folder / name).mkdir(exist_ok=True)
        for column, dtype in COLUMNS.items():
            np.save(folder / name / f"{column}.npy", np.asarray(split.columns[column], dtype=dtype))
        np.save(folder / name / "cells.npy", np.asarray(split.cells, dtype=np.uint32))
    head = {
        "format": "kws-index",
        "version": VERSION,
        "content_id": content_id(words, splits),
        "words": list(words),
        **({"source": source} if source else {}),
        "splits": {
            name: {"clips": len(split), "shards": [dataclasses.asdict(shard) for shard in split.shards]}
            for name, split in splits.items()
        },
    }
    partial = folder / "index.json.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(head, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / "index.json")
    return load(root)


def content_id(words: Sequence[str], splits: Mapping[str, Split]) -> str:
    """What the corpus holds, as 32 hex digits: the same words and shards give the same id, wherever they lie."""
    shards = [[name, shard.name, shard.clips, shard.sha256] for name in sorted(splits) for shard in splits[name].shards]
    return hashlib.sha256(json.dumps([list(words), shards]).encode()).hexdigest()[:32]


def count_cells(shard: Column, word: Column, num_shards: int, num_words: int) -> Column:
    """Clips of each word in each shard, from the two columns: (shards, words) uint32."""
    flat = shard.astype(np.int64) * num_words + word.astype(np.int64)
    return np.bincount(flat, minlength=num_shards * num_words).reshape(num_shards, num_words).astype(np.uint32)
