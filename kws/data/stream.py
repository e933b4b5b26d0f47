"""Streams the batches of a plan, in the plan's order for any number of threads that read ahead.

    slots of the plan -> SlotReader: clips and labels -> Batch -> training loop      (a wds.DataPipeline of two stages)
    0 workers: in the loop itself; else in `data.workers` threads that read ahead (kws/data/read_ahead.py)

Small slots are read several at a time: reading evicts the interpreter's own data from the processor's cache, so the
Python code that follows is slow; read one at a time, a slot of 64 clips took 1.5 times as long as the copying alone
(docs/log.md). An error of a clip may therefore be raised some slots before its batch.
Each batch has its position (step, slot), so the training loop's own count of finished steps is all that a resume needs.
Batches that were read ahead and not used are read again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import webdataset as wds  # type: ignore[import-untyped]
from torch import Tensor

from kws.data.buffers import BatchBuffers
from kws.data.excerpt import Excerpt
from kws.data.plan import NeededShards, Slot
from kws.data.read_ahead import ReadAhead
from kws.data.reader import Ids, Reader
from kws.data.store import Prefetcher
from kws.errors import UsageError, user_message

CPU = torch.device("cpu")
_CLIPS_AT_ONCE = 512
"""Slots whose clips need only be copied are read together, up to so many clips at once (or one slot, if it has more).
The number of slots follows from the size of the first."""
_AHEAD_OF_THREAD = 4
"""Reads by which each thread is ahead, where _MOST_BYTES_AHEAD allows it."""
_MOST_BYTES_AHEAD = 256_000_000
"""The most memory of batches that wait to be used, per rank; those of one read may always wait."""


class Batch(NamedTuple):
    """The clips of one slot. wave: int16 (B, T), zeros after the end of a shorter clip; all others int64 (B,).

    A batch is valid for as long as anything refers to its tensors: its memory is used again only after that, and on a
    CUDA device only after the copies from it are complete (kws/data/buffers.py). Any number may be held at once. With a
    CUDA device, wave and labels are in pinned memory.
    """

    step: int
    slot: int
    draws: Tensor
    clips: Tensor
    wave: Tensor
    lengths: Tensor
    labels: Tensor


class SlotReader:
    """Makes the batch of a slot: clips from `reader`, cut by `excerpt` or padded, and labels from `class_of`.

    class_of: the class of each word of the index. samples: length of a row where it is more than a clip, because the
    augmentation may need it (TrainingSet.read_samples). workers: threads that read ahead (data.workers); 0: clips are
    read where they are used. device: where the batches are copied to. Made once for a run: it keeps threads, buffers,
    open shards and the note of the clips that were checked from one stream to the next.
    """

    def __init__(
        self, reader: Reader, class_of: Iterable[int], excerpt: Excerpt, samples: int = 0, workers: int = 0,
        device: torch.device = CPU,
    ) -> None:  # fmt: skip
        self.reader, self._excerpt, self._samples = reader, excerpt, max(samples, excerpt.samples)
        self._class_of = np.asarray(list(class_of), dtype=np.int64)
        self._threads = ReadAhead(workers) if workers else None
        self._most_ahead = max(1, workers) * _AHEAD_OF_THREAD
        self._buffers = BatchBuffers(device, self._most_ahead + 2)  # two: those that the training holds

    @property
    def skipped(self) -> Ids:
        """Ids of the damaged clips left out so far, (n,)."""
        return self.reader.skipped

    def batch(self, slot: Slot) -> Batch:
        """Reads the slot's clips. Clips that the reader skips as damaged are missing from the batch."""
        return self._read([slot])[0]

    def batches(self, slots: Iterator[Slot]) -> Iterator[Batch]:
        """Yields the slots' batches in order, read ahead where there are threads."""
        first = next(slots, None)
        if first is None:
            return
        slots, clips = itertools.chain([first], slots), max(1, len(first.clips))
        num_slots = max(1, _CLIPS_AT_ONCE // clips) if self.reader.only_copies(first.clips) else 1
        parts = iter(lambda: list(itertools.islice(slots, num_slots)), [])
        read: Iterator[list[Batch]] = map(self._read, parts)
        if self._threads:
            most = _MOST_BYTES_AHEAD // (num_slots * clips * 2 * self._samples)
            read = self._threads.stream(self._read, parts, max(1, min(self._most_ahead, most)))
        for batches in read:
            yield from batches

    def _read(self, slots: Sequence[Slot]) -> list[Batch]:
        """Reads the batches of several slots, which share their memory."""
        clips, sizes = np.concatenate([slot.clips for slot in slots]), [len(slot.clips) for slot in slots]
        wave = self._buffers.take(len(clips), self._samples)
        numbers = np.empty((4, len(clips)), np.int64)
        numbers[0], numbers[1] = np.concatenate([slot.draws for slot in slots]), clips
        _, numbers[2] = self.reader.read_rows(clips, self._excerpt, self._samples, wave.numpy())
        np.take(self._class_of, self.reader.words(clips), out=numbers[3])
        if self.reader.on_bad == "skip" and (numbers[2] < 0).any():
            kept = numbers[2] >= 0
            sizes = [int(part.sum()) for part in np.split(kept, np.cumsum(sizes[:-1]))]
            numbers = np.ascontiguousarray(numbers[:, kept])
            wave.numpy()[: numbers.shape[1]] = wave.numpy()[kept]
            wave = wave[: numbers.shape[1]]
        draws, ids, lengths, labels = torch.from_numpy(numbers).unbind()
        columns = (draws, ids, wave, lengths, self._buffers.pinned_copy(labels))
        parts = zip(*(torch.split_with_sizes(column, sizes) for column in columns), strict=True)
        return [Batch(slot.step, slot.slot, *part) for slot, part in zip(slots, parts, strict=True)]

    def close(self) -> None:
        """Ends the threads, without waiting for one that waits for a silent server."""
        if self._threads:
            self._threads.close()


def stream_batches(
    slots: Callable[[], Iterable[Slot]], slot_reader: SlotReader,
    needed_shards: Callable[[], Iterable[NeededShards]] | None = None,
) -> Generator[Batch, None, None]:  # fmt: skip
    """Yields the batches of the slots in order, also of slots without clips, whose ranks still join collectives.

    needed_shards: which shards are read in which steps, to fetch remote ones ahead; by default taken from a second pass
    over `slots`. Closing the generator ends the stream. An error of a thread is raised here with its type. Raises
    UsageError for what `user_message` explains.
    """
    needed = needed_shards or (lambda: slot_reader.reader.needed_shards(slots()))
    prefetcher = slot_reader.reader.prefetch(needed())
    try:
        yield from wds.DataPipeline(functools.partial(_advancing, slots, prefetcher), slot_reader.batches)
    except (OSError, RuntimeError, MemoryError) as error:
        line = user_message(error)
        if line is None:
            raise
        raise UsageError(line) from error
    finally:
        if prefetcher:
            prefetcher.close()


def _advancing(slots: Callable[[], Iterable[Slot]], prefetcher: Prefetcher | None) -> Iterator[Slot]:
    """The slots; the prefetcher learns which step is being read."""
    for slot in slots():
        if prefetcher:
            prefetcher.advance(slot.step)
        yield slot
