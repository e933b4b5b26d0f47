"""Publishing a packing: moves shards and index from the scratch folder to their places, safely against a kill.

1. rows of the shards in the journal (+ the corpus they are added to) -> columns -> DIR/.packing/index
2. shards -> DIR/SPLIT, one by one: files that no index names are no part of a corpus
3. the index -> DIR/index, in one rename: from then on the new corpus is visible
4. source formats -> DIR/sources.json, which names the corpus that it belongs to

The moves rename files and folders whole, after their contents were written, so they need no kws.files.replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kws import files
from kws.data import index as index_file
from kws.data.index import COLUMNS, GROUPS, NEGATIVES, SPLITS, Column, Index, Shard, Split
from kws.errors import UsageError
from kws.packing import source_formats
from kws.packing.journal import Journal, WrittenShard
from kws.packing.merge import MergedIds

LEFT_OUT = "left_out.tsv"
"""In the scratch folder, then in index/: the files of the sources that were not packed, each with the reason. No
part of the corpus: its content id does not depend on it."""
REMARKS = "remarks.tsv"
"""As LEFT_OUT: recordings that were packed although something was fixed or looks implausible (kws.audio.remarks)."""
_CHUNK = 1 << 20


def restore_index(out: Path) -> None:
    """Puts the old index back after a kill between moving it aside and moving the new one in."""
    aside = _old_index(out / ".packing")
    if aside.is_dir() and not (out / "index").exists():
        aside.replace(out / "index")


def withdraw_shards(out: Path, journal: Journal) -> None:
    """Moves the shards of a packing that was killed while publishing back to the scratch folder."""
    if journal.get_fact("target") is None:
        return
    for shard in journal.shards():
        with contextlib.suppress(FileNotFoundError):
            (out / shard.name).replace(journal.folder / shard.name)
    for group in (*GROUPS, NEGATIVES["train"].partition("/")[0]):
        with contextlib.suppress(OSError):  # not there, or not empty
            (out / group).rmdir()
    journal.delete_fact("target")


def publish_corpus(out: Path, journal: Journal, base: Index | None, ids: MergedIds) -> Index:
    """Publishes the shards of the journal, behind those of `base`, as the corpus in `out`, and removes the scratch
    folder.

    Raises UsageError where a file is in the place of a shard.
    """
    for shard in journal.shards():
        if (out / shard.name).exists():
            raise UsageError(f"{out / shard.name}: exists already, and is no part of this corpus; move it elsewhere")
    columns = journal.folder / "columns"
    groups = {group: _joined(columns, group, journal, base, ids) for group in GROUPS}
    written = index_file.write(journal.folder, ids.words, ids.speakers, groups)
    for name in (LEFT_OUT, REMARKS):
        _publish_list(name, journal.folder, out)
    journal.set_fact("target", written.content_id)
    for split in SPLITS:
        (out / split).mkdir(exist_ok=True)
    for shard in journal.shards():
        (out / shard.name).parent.mkdir(parents=True, exist_ok=True)
        (journal.folder / shard.name).replace(out / shard.name)
    formats = source_formats.added(source_formats.load(base) if base else {}, journal.source_formats())
    source_formats.save(journal.folder, written.content_id, formats)
    _swap(journal.folder / "index", out / "index")
    finish(out, journal)
    return index_file.load(out)


def finish(out: Path, journal: Journal) -> None:
    """What is left to do when the index is in its place: removes the scratch folder."""
    with contextlib.suppress(FileNotFoundError):  # a kill came after this move
        (journal.folder / source_formats.NAME).replace(out / source_formats.NAME)
    journal.remove()


def _joined(folder: Path, split: str, journal: Journal, base: Index | None, ids: MergedIds) -> Split:
    """One split, or the negatives of one: the rows of the old shards, then those of the new shards."""
    old = base.groups.get(split) if base else None
    shards, cells = list(old.shards) if old else [], [ids.cells(split, old.cells)] if old else []
    start = len(old) if old else 0
    columns = _empty_columns(folder / split, start + journal.count_in_shards(split))
    for name in COLUMNS if old else ():
        for low in range(0, start, _CHUNK):
            rows = slice(low, min(low + _CHUNK, start))
            columns[name][rows] = ids.renumbered(split, name, old.columns[name][rows])  # type: ignore[union-attr]
    for shard in journal.shards(split):
        table = _shard_columns(shard, len(shards))
        for name, values in table.items():
            columns[name][start : start + shard.clips] = values
        cells.append(index_file.count_cells(np.zeros(shard.clips), table["word"], 1, len(ids.words)))
        shards.append(Shard(shard.name, shard.size, shard.clips, start, shard.sha256))
        start += shard.clips
    empty = np.zeros((0, len(ids.words)), np.uint32)
    return Split(split, tuple(shards), columns, np.concatenate([empty, *cells]))


def _empty_columns(folder: Path, clips: int) -> Mapping[str, npt.NDArray[Any]]:
    """Columns of that many clips, memory-mapped from new files, so that they need no memory."""
    folder.mkdir(parents=True, exist_ok=True)
    if not clips:  # an empty file cannot be mapped
        return {name: np.zeros(0, dtype) for name, dtype in COLUMNS.items()}
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (clips,))
        for name, dtype in COLUMNS.items()
    }


def _shard_columns(shard: WrittenShard, number: int) -> dict[str, Column]:
    """The columns of a shard, (clips,) each; `number`: its place among the split's shards."""
    table = np.frombuffer(shard.rows, np.uint64).reshape(-1, len(COLUMNS))
    return dict(zip(COLUMNS, table.T, strict=True)) | {"shard": np.full(len(table), number)}


def _publish_list(name: str, scratch: Path, out: Path) -> None:
    """Puts a list beside the new index, behind that of the corpus that is added to. Where both are empty there is
    none."""
    lines = [path for path in (out / "index" / name, scratch / name) if _has_rows(path)]
    if not lines:
        return
    with files.replaced(scratch / "index" / name) as partial, partial.open("w", encoding="utf-8") as listing:
        for number, path in enumerate(lines):
            with path.open(encoding="utf-8") as old:
                header = old.readline()
                listing.write(header if number == 0 else "")
                shutil.copyfileobj(old, listing)


def _has_rows(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as file:
        return bool(file.readline() and file.readline())


def _swap(new: Path, place: Path) -> None:
    """Moves the folder `new` to `place`. A folder there is replaced in one step, on file systems that can exchange
    names."""
    at_cwd, exchange = -100, 2
    if place.exists():
        renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
        if renameat2 and renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(place), exchange) == 0:
            return
        place.replace(_old_index(new.parent))  # `restore_index` finds it there after a kill
    new.replace(place)


def _old_index(scratch: Path) -> Path:
    return scratch / "index.before"
