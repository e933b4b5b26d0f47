"""Copies clips from the memory maps of their shards into the rows of a batch, compiled and without Python's lock (GIL).

    clip ids -> index columns -> crc32 where it is due -> samples -> rows (T,), zeros after the end of a clip

Measured (docs/log.md): 64 clips cost as much as a memcpy of their bytes. Other threads run meanwhile, so a thread can
read ahead while Python trains.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kws.audio.codec import WAV_HEADER_BYTES
from kws.audio.kernels import compiled
from kws.data.raw_memory import address_of, complete_stores, copy_past_cache, crc32_of

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
DONE, NOT_OPEN, DAMAGED, LEFT = range(4)
"""State of a row. DONE: it has its clip. NOT_OPEN: the clip's shard is not open. DAMAGED: its crc32 differs from
the index. LEFT: the clip is encoded, or longer than an excerpt, and its crc32 is right where it was due."""


class ClipTable(NamedTuple):
    """Where the clips of a split are. The first five are columns of the index; they and `checked` are (clips,) each.

    Ids after those of the index are windows (W,) of `silence`, the bytes of a WAV file: they are `silence_samples` long
    and begin at the samples `silence_starts` (W,).
    """

    shard: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint64]
    length: npt.NDArray[np.uint32]
    plain: npt.NDArray[np.uint8]
    crc32: npt.NDArray[np.uint32]
    checked: Flags
    """Whether the clip's crc32 was compared before; set by `gather`."""
    silence: npt.NDArray[np.uint8]
    silence_starts: Ints
    silence_samples: int


class Target(NamedTuple):
    """What is filled. wave: int16 (B, T), contiguous. lengths (B,): samples of each row's clip. excerpt_samples:
    recordings that are longer than this are LEFT, because only a part of them is used."""

    wave: npt.NDArray[np.int16]
    lengths: Ints
    excerpt_samples: int


def gather(
    clips: Ints, rows: Ints, table: ClipTable, addresses: Ints, target: Target, check: bool, again: bool
) -> npt.NDArray[np.uint8]:
    """Copies clips (B,) into the `rows` (n,) of the target, and sets their lengths. Returns the state of each, (n,).

    addresses (shards,): of the first byte of each open shard; 0: it is not open. The caller keeps the shards open, and
    has checked that all clips of a shard are inside it. check: compare the crc32 of clips that were not checked; again:
    of all clips.
    """
    state = np.zeros(len(rows), np.uint8)
    wave = target.wave
    _gather(
        clips, rows, *table, addresses, address_of(table.silence), wave, address_of(wave), target.lengths,
        target.excerpt_samples, check, again, state,
    )  # fmt: skip
    return state


@compiled
def _gather(
    clips: Any, rows: Any, shard: Any, offset: Any, length: Any, plain: Any, crc32: Any, checked: Flags,
    silence: Any, silence_starts: Ints, silence_samples: Any, addresses: Ints, silence_address: int,
    wave: Any, wave_address: int, lengths: Ints, excerpt_samples: int, check: bool, again: bool,
    state: npt.NDArray[np.uint8],
) -> None:  # fmt: skip
    """See `gather`. The wave (B, T) is at `wave_address`."""
    num_packed, row_samples = len(shard), wave.shape[1]
    for at in range(len(rows)):
        row, clip = rows[at], clips[rows[at]]
        if clip < num_packed:
            if addresses[shard[clip]] == 0:
                state[at] = NOT_OPEN
                continue
            start, size = addresses[shard[clip]] + np.int64(offset[clip]), np.int64(length[clip])
            if again or (check and not checked[clip]):
                if crc32_of(start, size) != crc32[clip]:
                    state[at] = DAMAGED
                    continue
                checked[clip] = True
            samples = (size - WAV_HEADER_BYTES) // 2
        else:
            start, samples = silence_address + 2 * silence_starts[clip - num_packed], silence_samples
        if samples > excerpt_samples or (clip < num_packed and plain[clip] == 0):
            state[at] = LEFT
            continue
        following = clips[rows[min(at + 1, len(rows) - 1)]]
        ahead = np.int64(0)  # where the next clip is, if that is known
        if following < num_packed and addresses[shard[following]] != 0:
            ahead = addresses[shard[following]] + np.int64(offset[following])
        copied = min(samples, row_samples)
        copy_past_cache(wave_address + row * row_samples * 2, start + WAV_HEADER_BYTES, copied * 2, ahead)
        wave[row, copied:] = 0
        lengths[row] = copied
    complete_stores()
