"""A clip by its name. Names stand in the tars alone, so the shards are searched."""

from __future__ import annotations

import numpy as np

from kws.data import silence
from kws.data.index import Index, Split
from kws.data.store import USUAL, Caching, Store
from kws.errors import UsageError

_BLOCK = 512
"""Of a tar: a member's header, in front of its bytes."""


def find_clip(index: Index, name: str, caching: Caching = USUAL) -> tuple[str, int]:
    """Split and id of the clip `name`: its key in the shards (with or without an ending), or SPLIT/NUMBER, as messages
    name clips. Raises UsageError where there is none."""
    splits = {key: split for key, split in index.splits.items() if len(split)}
    key, _, number = name.rpartition("/")
    if key in splits and number.isdecimal():
        if int(number) < len(splits[key]):
            return key, int(number)
        raise UsageError(f"{index.root}: {key} has clips 0 to {len(splits[key]) - 1}, not {number}")
    store = Store(index.root, index.source, caching)
    for wanted in dict.fromkeys((name, name.rpartition(".")[0])):
        for split in splits.values():
            clip = _find(split, store, wanted) if wanted else None
            if clip is not None:
                return split.name, clip
    raise UsageError(
        f"{index.root}: no clip is called {name!r}; wanted a name as `tar tf` of a shard lists them, such as "
        f"down_70a00e98_nohash_3, or SPLIT/NUMBER, such as train/0"
    )


def _find(split: Split, store: Store, name: str) -> int | None:
    start = name.encode() + b"."
    for number, shard in enumerate(split.shards):
        if silence.is_silence(shard):
            continue
        whole = store.shard(shard)
        offsets = np.asarray(split.columns["offset"][shard.start : shard.start + shard.clips]).astype(np.int64)
        at = whole.find(start)
        while at >= 0:
            # A long name stands in a block of its own, two blocks before the header that the bytes follow.
            for place in (at // _BLOCK * _BLOCK + _BLOCK, at // _BLOCK * _BLOCK + 2 * _BLOCK):
                row = int(np.searchsorted(offsets, place))
                if row < len(offsets) and offsets[row] == place:
                    assert split.columns["shard"][shard.start + row] == number
                    return int(shard.start + row)
            at = whole.find(start, at + 1)
    return None
