"""Streams the batches of a plan, in the plan's order for any number of loader workers.

    slots of the plan -> worker k of n takes every n-th -> SlotReader: clips and labels -> Batch -> WebLoader -> loop

Each batch has its position (step, slot), so the training loop's own count of finished steps is all that a resume needs.
Batches that were prefetched and not used are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import webdataset as wds  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.data import get_worker_info

from kws.data import loader_workers
from kws.data.excerpt import Excerpt
from kws.data.plan import NeededShards, Slot
from kws.data.reader import Ids, Reader
from kws.errors import UsageError, user_message

_PREFETCH_FACTOR = 4
"""Batches that a loader worker reads ahead."""


class Batch(NamedTuple):
    """The clips of one slot. wave: int16 (B, T), zeros after the end of a shorter clip; all others int64 (B,)."""

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
    augmentation may need it (TrainingSet.read_samples).
    """

    def __init__(self, reader: Reader, class_of: Iterable[int], excerpt: Excerpt, samples: int = 0) -> None:
        self.reader, self._excerpt, self._samples = reader, excerpt, samples
        self._class_of = np.asarray(list(class_of), dtype=np.int64)

    @property
    def skipped(self) -> Ids:
        """Ids of the damaged clips left out so far, (n,)."""
        return self.reader.skipped

    def batch_bytes(self, slot: Slot | None) -> int:
        """Bytes of the slot's batch; 0 for None."""
        samples = max(self._samples, self._excerpt.samples)
        return batch_bytes(slot, samples)

    def batch(self, slot: Slot) -> Batch:
        """Reads the slot's clips. Clips that the reader skips as damaged are missing from the batch."""
        wave, lengths = self.reader.read_rows(slot.clips, self._excerpt, self._samples)
        labels = self._class_of[self.reader.words(slot.clips)]
        arrays: list[npt.NDArray[Any]] = [slot.draws, slot.clips, wave, lengths, labels]
        if self.reader.on_bad == "skip" and (lengths < 0).any():
            arrays = [array[lengths >= 0] for array in arrays]
        return Batch(slot.step, slot.slot, *map(torch.from_numpy, arrays))


def batch_bytes(slot: Slot | None, samples: int) -> int:
    """Bytes of the batch of a slot, with rows of so many samples; 0 for None."""
    return 0 if slot is None else len(slot.clips) * (2 * samples + 4 * 8)


def require_resources(workers: int, bytes_of_batch: int, files_to_open: int = 0) -> None:
    """Raises UsageError where the system has too little for batches of that size from loader workers.

    `files_to_open`: descriptors that this process will use before.
    """
    loader_workers.require_shared_memory(workers, _PREFETCH_FACTOR, bytes_of_batch)
    loader_workers.require_descriptors(workers, files_to_open)


def stream_batches(
    slots: Callable[[], Iterable[Slot]], slot_reader: SlotReader, workers: int = 0, pin_memory: bool = False,
    needed_shards: Callable[[], Iterable[NeededShards]] | None = None,
) -> Generator[Batch, None, None]:  # fmt: skip
    """Yields the batches of the slots in order, also of slots without clips, whose ranks still join collectives.

    needed_shards: which shards are read in which steps, to fetch remote ones ahead; by default taken from a second pass
    over `slots`. Closing the generator ends the loader workers.
    """
    needed = needed_shards or (lambda: slot_reader.reader.needed_shards(slots()))
    pipeline = wds.DataPipeline(_WorkerShare(slots), _ReadStage(slot_reader, needed))
    if workers:
        require_resources(workers, slot_reader.batch_bytes(next(iter(slots()), None)))
    # Without workers a loader would only add time: 0.1 ms a batch, a fifth of reading 64 clips.
    items = _loader(pipeline, workers, pin_memory) if workers or pin_memory else pipeline
    for item in loader_workers.named_errors(items) if workers else items:
        if isinstance(item, UsageError):  # raised here: a loader would wrap it in the traceback of its worker
            raise item
        yield item


def _loader(pipeline: wds.DataPipeline, workers: int, pin_memory: bool) -> wds.WebLoader:
    return wds.WebLoader(
        pipeline,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=_PREFETCH_FACTOR if workers else None,
        worker_init_fn=loader_workers.init_worker if workers else None,
        generator=torch.Generator(),  # its own: starting an iterator must not advance the global generator
    )


class _WorkerShare:
    """Pipeline stage 1: the slots that this loader worker reads. Every n-th, as the loader takes them in turn."""

    def __init__(self, slots: Callable[[], Iterable[Slot]]) -> None:
        self._slots = slots

    def __call__(self) -> Iterator[Slot]:
        worker = get_worker_info()
        count, mine = (worker.num_workers, worker.id) if worker else (1, 0)
        return (slot for number, slot in enumerate(self._slots()) if number % count == mine)


class _ReadStage:
    """Pipeline stage 2: slots to batches. A thread of this process fetches remote shards ahead. An error is the last
    item, because exceptions of a loader worker lose their type."""

    def __init__(self, slot_reader: SlotReader, needed: Callable[[], Iterable[NeededShards]]) -> None:
        self._slot_reader, self._needed = slot_reader, needed

    def __call__(self, slots: Iterable[Slot]) -> Iterator[Batch | UsageError]:
        prefetcher = self._slot_reader.reader.prefetch(self._needed())
        try:
            for slot in slots:
                if prefetcher:
                    prefetcher.advance(slot.step)
                batch = self._slot_reader.batch(slot)
                if get_worker_info():
                    loader_workers.share(batch)
                yield batch
        except (UsageError, OSError, RuntimeError, MemoryError) as error:
            line = user_message(error)
            if line is None:
                raise
            yield error if isinstance(error, UsageError) else UsageError(line)
        finally:
            if prefetcher:
                prefetcher.close()
