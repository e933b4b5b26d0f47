"""The index of a corpus and its file format: where every clip is and what it is, in memory-mapped columns.

    DIR/{train,valid,test,noise}/NNNNNN.tar      the shards
    DIR/index/index.json                         words, splits, shards with sha256, content id, source; written last
    DIR/index/speakers.npy                       names of the speakers
    DIR/index/SPLIT/COLUMN.npy                   one value per clip; a clip's id is its row in its split
    DIR/index/SPLIT/cells.npy                    number of clips of each word in each shard, (shards, words)
    DIR/negatives/{train,valid,test}/NNNNNN.tar  long recordings without the words, if there are any
    DIR/index/negatives/{train,valid,test}       the same columns for them

The rows are in the order of the shards, so each shard is a contiguous range of rows.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws import files
from kws.errors import UsageError, did_you_mean, unreadable

VERSION = 2
SPLITS = ("train", "valid", "test", "noise")
NEGATIVES = {split: f"negatives/{split}" for split in ("train", "valid", "test")}
"""Split -> the group of its long recordings without the words (kws/data/negatives.py), which may be missing."""
GROUPS = (*SPLITS, *NEGATIVES.values())
"""All groups of shards that a corpus may have: its splits, then its negatives."""
COLUMNS = {
    "shard": np.uint32,  # number of the shard among the split's shards
    "offset": np.uint64,  # bytes from the start of the shard to the first byte of the audio member
    "length": np.uint32,  # bytes of the audio member
    "samples": np.uint32,  # number of samples at 16 kHz
    "plain": np.uint8,  # 1: PCM16 mono 16 kHz after a 44-byte header, readable without decoding
    "word": np.uint32,  # number of the word in Index.words; 0 in the noise split
    "speaker": np.uint32,  # number of the speaker in Index.speakers
    "crc32": np.uint32,  # of the audio member
    "name": np.uint64,  # hash of the clip's key in its tar: the same in any packing of the same recordings
    "sound": np.uint64,  # hash of the samples: equal for copies of one recording
}
Column = npt.NDArray[Any]
CHUNK_ROWS = 1 << 20
"""Rows of a chunk of `Split.chunks`."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One tar: name relative to the corpus folder, size in bytes, number of clips, first row in its split, sha256."""

    name: str
    bytes: int
    clips: int
    start: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: its shards, its columns (each (clips,), memory-mapped) and `cells`, (shards, words)."""

    name: str
    shards: tuple[Shard, ...]
    columns: Mapping[str, Column]
    cells: Column

    def __len__(self) -> int:
        return len(self.columns["shard"])

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """Returns the ids of the clips that a plan draws together with shard `number`: the clips inside that shard."""
        shard = self.shards[number]
        return np.arange(shard.start, shard.start + shard.clips)

    def values(self, column: str, rows: npt.ArrayLike) -> Column:
        """Returns the values of a column for these clips, in the shape of `rows`."""
        return self.columns[column][rows]  # type: ignore[index]

    def chunks(self, *columns: str) -> Iterator[tuple[Column, ...]]:
        """Yields these columns from end to end, CHUNK_ROWS rows at a time.

        Each chunk is a memory map of its own, whose pages are freed with it: a pass over 100 million clips leaves
        nothing in memory.
        """
        for low in range(0, len(self.columns["shard"]), CHUNK_ROWS):
            yield tuple(_map_chunk(self.columns[name], low) for name in columns)


@dataclasses.dataclass(frozen=True)
class Index:
    """A corpus: its folder, words, speakers, splits and content id.

    negatives: split -> its long recordings without the words, where it has any. source: "" where the shards are inside
    the folder, else the base address of the shards (ShardSource of kws/data/shard_fetch.py).
    """

    root: Path
    words: tuple[str, ...]
    content_id: str
    splits: Mapping[str, Split]
    source: str = ""
    negatives: Mapping[str, Split] = dataclasses.field(default_factory=dict)

    @property
    def groups(self) -> dict[str, Split]:
        """The splits and the negatives, by the names in GROUPS."""
        return {**self.splits, **{NEGATIVES[split]: group for split, group in self.negatives.items()}}

    @functools.cached_property
    def speakers(self) -> Column:
        """The speakers' names, (speakers,) fixed-width bytes."""
        return np.asarray(np.load(self.root / "index" / "speakers.npy", mmap_mode="r"))

    def split(self, name: str) -> Split:
        """Returns a split by its name. Raises UsageError where there is no such split or it is empty."""
        found = self.splits.get(name)
        if found is None or len(found) == 0:
            filled = ", ".join(key for key, split in self.splits.items() if len(split)) or "none"
            near = "" if name in self.splits else did_you_mean(name, self.splits)
            raise UsageError(f"{self.root}: no clips in split {name!r}; splits with clips: {filled}{near}")
        return found


def _map_chunk(column: Column, low: int) -> Column:
    rows = column[low : low + CHUNK_ROWS]
    if not isinstance(column, np.memmap) or column.filename is None:
        return rows
    return np.memmap(column.filename, column.dtype, "r", column.offset + low * column.itemsize, rows.shape)


def load(root: Path) -> Index:
    """Opens the index of the corpus in folder `root`. Raises UsageError where there is none or it is damaged."""
    path = root / "index" / "index.json"
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        if head["format"] != "kws-index" or head["version"] != VERSION:
            raise UsageError(
                f"{path}: version {head['version']} of the index, wanted {VERSION}; pack again with kws pack"
            )
        splits = {name: _load_split(root, name, entry["shards"]) for name, entry in head["splits"].items()}
        negatives = {
            split: _load_split(root, NEGATIVES[split], entry["shards"])
            for split, entry in head.get("negatives", {}).items()
        }
        return Index(root, tuple(head["words"]), head["content_id"], splits, str(head.get("source", "")), negatives)
    except FileNotFoundError as error:
        raise UsageError(
            f"{root}: no packed corpus there (no {Path(error.filename).name}); "
            f"make one with kws pack {_pack_arguments(root)}"
        ) from error
    except (OSError, EOFError, KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        if isinstance(error, OSError) and error.errno:
            raise unreadable(error, path) from error
        raise UsageError(f"{path}: damaged index ({error}); pack again with kws pack") from error


def _pack_arguments(root: Path) -> str:
    """Returns the arguments of `kws pack` to suggest: a folder with files in it may hold the recordings."""
    corpora = sorted(path.parents[1] for path in root.glob("*/index/index.json"))
    if corpora:
        return f"SRC... {root / 'NEW'}, or use {corpora[0]}, which is one"
    has_files = root.is_dir() and any(root.iterdir())
    return f"{root} SHARDS, if these are recordings" if has_files else f"SRC... {root}"


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
    root: Path, words: Sequence[str], speakers: Sequence[str], groups: Mapping[str, Split], source: str = ""
) -> Index:
    """Writes the index of the corpus in folder `root` and opens it. `groups`: see GROUPS; negatives without recordings
    are left out. `source`: see Index.source.

    index.json is written last and atomically, so that an interrupted write is never taken for an index.
    """
    folder = root / "index"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "speakers.npy", np.array([name.encode() for name in speakers] or [b""]))
    negatives = {split: groups[name] for split, name in NEGATIVES.items() if len(groups.get(name, ()))}
    splits = {name: group for name, group in groups.items() if name not in NEGATIVES.values()}
    for name, split in {**splits, **{NEGATIVES[split]: group for split, group in negatives.items()}}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for column, dtype in COLUMNS.items():
            np.save(folder / name / f"{column}.npy", np.asarray(split.columns[column], dtype=dtype))
        np.save(folder / name / "cells.npy", np.asarray(split.cells, dtype=np.uint32))
    head = {
        "format": "kws-index",
        "version": VERSION,
        "content_id": content_id(words, groups),
        "words": list(words),
        **({"source": source} if source else {}),
        "splits": {name: _entry(split) for name, split in splits.items()},
        **({"negatives": {split: _entry(group) for split, group in negatives.items()}} if negatives else {}),
    }
    for left in folder.glob(".index.json.*"):  # the partial file of a process that was killed here
        left.unlink()
    files.write_text(folder / "index.json", json.dumps(head, indent=1), durable=True)
    return load(root)


def _entry(split: Split) -> dict[str, Any]:
    """The entry of a split or of negatives in index.json."""
    return {"clips": len(split), "shards": [dataclasses.asdict(shard) for shard in split.shards]}


def content_id(words: Sequence[str], groups: Mapping[str, Split]) -> str:
    """Returns the id of a corpus, 32 hex digits: equal for equal words and shards, whatever their folder or address."""
    shards = [[name, shard.name, shard.clips, shard.sha256] for name in sorted(groups) for shard in groups[name].shards]
    return hashlib.sha256(json.dumps([list(words), shards]).encode()).hexdigest()[:32]


def count_cells(shard: Column, word: Column, num_shards: int, num_words: int) -> Column:
    """Counts the clips of each word in each shard from the two columns, (clips,) each: (shards, words) uint32."""
    flat = shard.astype(np.int64) * num_words + word.astype(np.int64)
    return np.bincount(flat, minlength=num_shards * num_words).reshape(num_shards, num_words).astype(np.uint32)
