"""In a child process: how fast this rank reads shards of the config's corpus, not from the page cache.

    train shards -> blocks of 8 MB, dealt to the ranks -> read for two seconds -> bytes, clips a second

All ranks read at the same time, each other blocks, as in a training: the speed of a node is the sum of its ranks'.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from kws.data import index as index_file
from kws.data.index import Shard
from kws.data.shard_fetch import ShardSource
from kws.doctor.child_process import Answer, Send, answer_parent
from kws.transport import RetryPolicy

_BLOCK, _BUFFER, _SECONDS = 8 << 20, 1 << 20, 2.0


def work(task: Answer, send: Send) -> None:
    """task: {"shards": folder, "rank", "world_size"}. Answers the corpus's id, kind of source, bytes and seconds."""
    index = index_file.load(Path(task["shards"]))
    split, source = index.split("train"), ShardSource(index.root, index.source)
    blocks = _blocks(split.shards, task["rank"], task["world_size"])
    buffer = memoryview(bytearray(_BUFFER))
    read, began = 0, time.perf_counter()
    for shard, offset, size in blocks:
        read += _read_block(source, shard, offset, size, buffer)
        if time.perf_counter() - began > _SECONDS:
            break
    seconds = time.perf_counter() - began
    bytes_of_clip = sum(shard.bytes for shard in split.shards) / len(split)
    send(
        {
            "corpus_id": index.content_id, "kind": source.kind, "bytes": read, "seconds": seconds,
            "bytes_of_clip": bytes_of_clip, "folder": str(index.root.absolute()),
        }
    )  # fmt: skip


def _blocks(shards: tuple[Shard, ...], rank: int, world_size: int) -> Iterator[tuple[Shard, int, int]]:
    """This rank's blocks: shard, first byte, number of bytes. Where there are fewer blocks than ranks, they are read by
    several."""
    blocks = [
        (shard, start, min(_BLOCK, shard.bytes - start)) for shard in shards for start in range(0, shard.bytes, _BLOCK)
    ]
    yield from blocks[rank % len(blocks) :: world_size]


def _read_block(source: ShardSource, shard: Shard, offset: int, size: int, buffer: memoryview) -> int:
    """Reads a block, and returns its bytes. Raises UsageError and OSError."""
    if source.kind == "folder":
        _forget_pages(source.address(shard.name), offset, size)
    read = 0
    with source.open(shard.name, offset, RetryPolicy().timeout_s) as response:
        while read < size:
            count = response.readinto(buffer[: size - read])
            if not count:
                break
            read += count
    return read


def _forget_pages(path: str, offset: int, size: int) -> None:
    """Asks the kernel to drop these bytes from its page cache, so that the disk or the file server is measured."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    answer_parent(work)
