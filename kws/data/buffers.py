"""Reused memory for the samples of batches: buffers return to a ring when their batches are garbage-collected.

A buffer is free as soon as nothing refers to its batch any more, in whichever thread that happens, so a batch is valid
as long as anything refers to it, and nobody has to release it. Keeping many batches costs memory, never correctness.
"""

from __future__ import annotations

import collections
import contextlib
import mmap
import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws.data.raw_memory import address_of

Samples = npt.NDArray[np.int16]
_HUGE_PAGE = 1 << 21
"""Bytes of a huge page of x86 and most ARM systems; a buffer begins at a multiple of it."""


class BatchBuffers:
    """Gives out int16 memory for batches, page-locked (pinned) for a CUDA device. Any thread may call it.

    most_free: buffers kept for later use.
    """

    def __init__(self, device: torch.device, most_free: int) -> None:
        self._device = device
        self._free: collections.deque[Samples] = collections.deque(maxlen=most_free)  # drops the oldest when it is full

    def take(self, clips: int, samples: int) -> Tensor:
        """Returns an int16 tensor (clips, samples) of undefined values."""
        if self._device.type == "cuda":
            return self._pinned(clips, samples)
        return torch.from_numpy(self._from_ring(clips, samples))

    def pinned_copy(self, values: Tensor) -> Tensor:
        """Returns the values, in pinned memory where the device is CUDA: a copy to it then needs no wait."""
        if self._device.type != "cuda":
            return values
        with torch.cuda.device(self._device):
            return values.pin_memory()

    def _pinned(self, clips: int, samples: int) -> Tensor:
        # torch's host allocator is the ring here. It hands memory out again only when its tensors are freed and the
        # copies to a device that were started from them are complete: it records an event for each stream that
        # copied, and queries them (ATen/core/CachingHostAllocator.h: record_event, free, process_events).
        with torch.cuda.device(self._device):
            return torch.empty((clips, samples), dtype=torch.int16, pin_memory=True)

    def _from_ring(self, clips: int, samples: int) -> Samples:
        # New memory for each batch may cost as much as reading it, because the kernel clears it page by page.
        needed = clips * samples
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = _aligned(needed)
        if len(buffer) < needed:
            buffer = _aligned(needed)
        rows = buffer[:needed].reshape(clips, samples)
        # A tensor made of it keeps this array alive. An array made of it would not: that refers to the memory alone.
        weakref.finalize(rows, self._free.append, buffer).atexit = False
        return rows


def _aligned(samples: int) -> Samples:
    """Uninitialised memory (samples,), in huge pages where the system has them.

    Measured on 64 clips into one of six buffers: 220 us, and 363 us with pages of 4 kB (docs/log.md).
    """
    memory = mmap.mmap(-1, 2 * samples + _HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.int16)
    start = -address_of(whole) % _HUGE_PAGE // 2
    return whole[start : start + samples]
