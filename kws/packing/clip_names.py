"""A clip by its name: hashed, as the index has it, so no shard is opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from kws.data.index import Index, Split
from kws.errors import UsageError
from kws.packing.decoding import key_of
from kws.packing.scan import name_id


def find_clip(index: Index, name: str) -> tuple[str, int]:
    """Split and id of the clip `name`: its key in the shards or the file WORD/FILE that it was packed from (both with
    or without an ending), or SPLIT/NUMBER, as messages name clips. Raises UsageError where there is none."""
    splits = {key: split for key, split in index.splits.items() if len(split)}
    key, _, number = name.rpartition("/")
    if key in splits and number.isdecimal():
        if int(number) < len(splits[key]):
            return key, int(number)
        raise UsageError(f"{index.root}: {key} has clips 0 to {len(splits[key]) - 1}, not {number}")
    for wanted in dict.fromkeys(_keys(name)):
        for split in splits.values():
            clip = _find(split, name_id(wanted))
            if clip is not None:
                return split.name, clip
    raise UsageError(
        f"{index.root}: no clip is called {name!r}; wanted a name as `tar tf` of a shard lists them, such as "
        f"down_70a00e98_nohash_3, the file it was packed from, down/70a00e98_nohash_3.wav, or SPLIT/NUMBER, train/0"
    )


def _keys(name: str) -> Iterator[str]:
    """What a clip of that name may be called in the shards."""
    yield name
    yield str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
    yield from (key_of(name), key_of(f"{name}."))


def _find(split: Split, wanted: int) -> int | None:
    start = 0
    for (names,) in split.chunks("name"):
        found = np.flatnonzero(names == np.uint64(wanted))
        if len(found):
            return start + int(found[0])
        start += len(names)
    return None
