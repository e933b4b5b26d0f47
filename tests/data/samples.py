"""Helpers of several tests of kws/data: the labels of the tones, one slot, damaged clips, comparing batches."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from kws.data.index import Index, Shard
from kws.data.plan import Plan, PlanSettings, Slot
from kws.data.stream import Batch

LABELS = (2, 0, 1)
"""The class of each of the three words of the corpus `tones`."""


def shards_of(corpus: Index) -> tuple[Shard, ...]:
    return corpus.split("train").shards


def bytes_of(corpus: Index, shard: Shard) -> bytes:
    return (corpus.root / shard.name).read_bytes()


def one_slot(*clips: int) -> Slot:
    return Slot(0, 0, np.arange(len(clips)), np.array(clips, dtype=np.int64))


def natural_plan(corpus: Index, window: int = 32) -> Plan:
    settings = PlanSettings("natural", slots=2, micro_batch=8, seed=0, window=window)
    return Plan(corpus.split("train"), LABELS, settings, epoch=0)


def flip_bit(corpus: Index, clip: int) -> None:
    """Flips one bit in the middle of the clip's samples, in place: maps that are open see the change too."""
    columns = corpus.split("train").columns
    with (corpus.root / shards_of(corpus)[columns["shard"][clip]].name).open("r+b") as file:
        file.seek(int(columns["offset"][clip]) + 5000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def change_file(path: Path, how: Literal["flipped", "shorter", "longer"]) -> None:
    """Flips a bit of a file, or changes its size."""
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"flipped": data, "shorter": data[:-512], "longer": data + b"\0" * 512}[how])


def same(one: Batch, other: Batch) -> bool:
    return (one.step, one.slot) == (other.step, other.slot) and all(
        torch.equal(a, b) for a, b in zip(one[2:], other[2:], strict=True)
    )
