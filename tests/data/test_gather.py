"""The compiled gather copies what numpy would and compares what zlib computes, for any place and size."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from kws.data.gather import DAMAGED, DONE, LEFT, NOT_OPEN, ClipTable, Target, gather
from kws.data.raw_memory import address_of

HEADER = 44
SIZES = (0, 1, 7, 15, 16, 17, 63, 64, 65, 200, 999, 1000, 1001, 2048, 5000)
"""Samples of the clips."""


def table(shard: np.ndarray, offsets: np.ndarray) -> ClipTable:
    lengths = HEADER + 2 * np.array(SIZES)
    crc32 = [zlib.crc32(shard[start : start + size]) for start, size in zip(offsets, lengths, strict=True)]
    kinds = (np.uint32, np.uint64, np.uint32, np.uint8, np.uint32)
    values = (np.zeros(len(SIZES)), offsets, lengths, np.ones(len(SIZES)), crc32)
    columns = [np.array(value).astype(kind) for value, kind in zip(values, kinds, strict=True)]
    for column in columns:
        column.flags.writeable = False  # as memory maps are: otherwise numba compiles once more
    silence = np.zeros(HEADER + 20, np.uint8)
    silence[HEADER:] = np.arange(20)
    silence.flags.writeable = False
    return ClipTable(*columns, np.zeros(len(SIZES), np.bool_), silence, np.array([0, 3]), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 1000, 1001])
def test_rows_hold_the_clips_and_zeros(width: int) -> None:
    rng = np.random.default_rng(width)
    shard = rng.integers(0, 256, 200_000).astype(np.uint8)
    offsets = rng.integers(0, 180_000, len(SIZES))
    columns, silent = table(shard, offsets), len(SIZES)
    clips = rng.permutation(np.concatenate([np.arange(silent + 2), np.arange(silent)]))
    target = Target(np.full((len(clips), width), 9, np.int16), np.full(len(clips), -1), 100_000)
    rows = rng.permutation(len(clips))[:-3]  # three rows are not asked for
    state = gather(clips, rows, columns, np.array([address_of(shard)]), target, True, False)
    assert (state == DONE).all()
    for row, clip in enumerate(clips.tolist()):
        if row not in rows:
            assert (target.wave[row] == 9).all()
            continue
        start = HEADER + (int(offsets[clip]) if clip < silent else [0, 6][clip - silent])
        memory = shard if clip < silent else columns.silence
        wanted = np.frombuffer(memory.tobytes(), "<i2", SIZES[clip] if clip < silent else 5, start)[:width]
        assert target.lengths[row] == len(wanted)
        assert np.array_equal(target.wave[row], np.pad(wanted, (0, width - len(wanted))))
    assert columns.checked[np.intersect1d(clips[rows], np.arange(silent))].all()


def test_rows_that_cannot_be_filled_are_left_as_they_are_and_say_why() -> None:
    shard = np.random.default_rng(0).integers(0, 256, 200_000).astype(np.uint8)
    offsets = np.arange(len(SIZES)) * 12_000
    columns = table(shard, offsets)
    shard[offsets[9] + 100] ^= 1
    clips, address = np.array([9, 14, 3]), np.array([address_of(shard)])
    target = Target(np.full((3, 4000), 9, np.int16), np.full(3, -1), 4000)
    rows = np.arange(3)
    assert gather(clips, rows, columns, np.array([0]), target, True, False).tolist() == [NOT_OPEN] * 3
    assert gather(clips, rows, columns, address, target, True, False).tolist() == [DAMAGED, LEFT, DONE]
    assert (target.wave[:2] == 9).all()
    assert target.lengths.tolist() == [-1, -1, SIZES[3]]
    shard[offsets[3]] ^= 1  # the header, after the clip was checked
    assert gather(clips, rows, columns, address, target, True, False).tolist() == [DAMAGED, LEFT, DONE]
    assert gather(clips, rows, columns, address, target, True, True).tolist() == [DAMAGED, LEFT, DAMAGED]
    assert gather(clips, rows, columns, address, target, False, False).tolist() == [DONE, LEFT, DONE]
