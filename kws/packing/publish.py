"""Finished shards and their index from the scratch folder to their places, in an order in which a kill does no harm.

journal: rows of the shards (+ the corpus they are added to) -> columns -> DIR/.packing/index
shards -> DIR/SPLIT; then the index -> DIR/index, in one move: only then is there a (or another) corpus
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws.data import index as index_file
from kws.data.index import COLUMNS, SPLITS, Column, Index, Shard, Split
from kws.errors import UsageError
from kws.packing.journal import Journal, Written
from kws.packing.merge import Numbering

_CHUNK = 1 << 20


def recover(out: Path) -> None:
    """Puts the old index back, where a kill came between its going and the new one's coming."""
    aside = _aside(out / ".packing")
    if aside.is_dir() and not (out / "index").exists():
        aside.replace(out / "index")


def take_back(out: Path, book: Journal) -> None:
    """Shards of a packing that was killed while it put them in place, to the scratch folder again."""
    if book.fact("target") is None:
        return
    for shard in book.shards():
        with contextlib.suppress(FileNotFoundError):
            (out / shard.name).replace(book.folder / shard.name)
    for split in SPLITS:
        with contextlib.suppress(OSError):  # not there, or not empty
            (out / split).rmdir()
    book.drop("target")


def publish(out: Path, book: Journal, base: Index | None, numbering: Numbering) -> Index:
    """Makes the shards of the journal, after those of `base`, the corpus in `out`; the scratch folder goes."""
    for shard in book.shards():
        if (out / shard.name).exists():
            raise UsageError(f"{out / shard.name}: in the way, and not of this corpus; move it elsewhere")
    columns = book.folder / "columns"
    splits = {split: _joined(columns, split, book, base, numbering) for split in SPLITS}
    made = index_file.write(book.folder, numbering.words, numbering.speakers, splits)
    book.note("target", made.content_id)
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
    for shard in book.shards():
        (book.folder / shard.name).replace(out / shard.name)
    _swap(book.folder / "index", out / "index")
    book.remove()
    return index_file.load(out)


def _joined(folder: Path, split: str, book: Journal, base: Index | None, numbering: Numbering) -> Split:
    """One split: the old rows as they are, then those of the new shards."""
    old = base.splits.get(split) if base else None
    shards, cells = list(old.shards) if old else [], [numbering.cells(split, old.cells)] if old else []
    start = len(old) if old else 0
    columns = _columns(folder / split, start + book.count_in_shards(split))
    for name in COLUMNS if old else ():
        for low in range(0, start, _CHUNK):
            rows = slice(low, min(low + _CHUNK, start))
            columns[name][rows] = numbering.renumbered(split, name, old.columns[name][rows])  # type: ignore[union-attr]
    for written in book.shards(split):
        table = _rows(written, len(shards))
        for name, values in table.items():
            columns[name][start : start + written.clips] = values
        cells.append(index_file.count_cells(np.zeros(written.clips), table["word"], 1, len(numbering.words)))
        shards.append(Shard(written.name, written.size, written.clips, start, written.sha256))
        start += written.clips
    nothing = np.zeros((0, len(numbering.words)), np.uint32)
    return Split(split, tuple(shards), columns, np.concatenate([nothing, *cells]))


def _columns(folder: Path, clips: int) -> Mapping[str, npt.NDArray[Any]]:
    """Empty ones, as files: they need no memory."""
    folder.mkdir(parents=True, exist_ok=True)
    if not clips:  # a file of none cannot be mapped
        return {name: np.zeros(0, dtype) for name, dtype in COLUMNS.items()}
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (clips,))
        for name, dtype in COLUMNS.items()
    }


def _rows(written: Written, number: int) -> dict[str, Column]:
    """A shard's columns; `number`: which of the split's shards it is."""
    table = np.frombuffer(written.rows, np.uint64).reshape(-1, len(COLUMNS))
    return dict(_named(table)) | {"shard": np.full(len(table), number)}


def _named(table: Column) -> Iterator[tuple[str, Column]]:
    yield from zip(COLUMNS, table.T, strict=True)


def _swap(new: Path, place: Path) -> None:
    """`new` to its place, in one move also where another is there, on file systems that can exchange two names."""
    at_cwd, exchange = -100, 2
    if place.exists():
        renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
        if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(place), exchange) == 0:
            return
        place.replace(_aside(new.parent))  # `recover` knows it
    new.replace(place)


def _aside(scratch: Path) -> Path:
    return scratch / "index.before"
