"""Finds a clip by name. The index holds hashes of the names, so no shard is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from kws.data.index import Index, Split
from kws.errors import UsageError
from kws.packing.decoding import clip_key
from kws.packing.scan import clip_name_hash


def find_clip(index: Index, name: str) -> tuple[str, int]:
    """Split and id of the clip `name`: its key in the shards or the file WORD/FILE that it was packed from (each with
    or without file extension), or SPLIT/NUMBER, as messages name clips. Raises UsageError where there is none."""
    splits = {key: split for key, split in index.splits.items() if len(split)}
    key, _, number = name.rpartition("/")
    if key in splits and number.isdecimal():
        if int(number) < len(splits[key]):
            return key, int(number)
        raise UsageError(f"{index.root}: {key} has clips 0 to {len(splits[key]) - 1}, not {number}")
    for wanted in dict.fromkeys(_possible_keys(name)):
        for split in splits.values():
            clip = _find(split, clip_name_hash(wanted))
            if clip is not None:
                return split.name, clip
    raise UsageError(
        f"{index.root}: no clip is called {name!r}; wanted a name as `tar tf` of a shard lists them, such as "
        f"down_70a00e98_nohash_3, the file it was packed from, down/70a00e98_nohash_3.wav, or SPLIT/NUMBER, train/0"
    )


def _possible_keys(name: str) -> Iterator[str]:
    """The keys that a clip of that name may have in the shards."""
    yield name
    yield str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
    yield from (clip_key(name), clip_key(f"{name}."))


def _find(split: Split, wanted: int) -> int | None:
    start = 0
    for (names,) in split.chunks("name"):
        found = np.flatnonzero(names == np.uint64(wanted))
        if len(found):
            return start + int(found[0])
        start += len(names)
    return None
