"""Carries out a plan: slots in, batches out, in the same order whatever the number of loader workers.

    plan's slots -> [worker k takes every n-th] -> Reader: memory map -> int16 (B, T) -> WebLoader -> the loop

A batch carries its position, so the loop's own count of consumed steps is the position to resume from; what lies
prefetched in the loader is simply drawn again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import io
import itertools
import mmap
import signal
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import webdataset as wds  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.data import get_worker_info

from kws.audio import codec
from kws.corpus.tasks import SILENCE
from kws.data import silence
from kws.data.index import Index, Shard, Split
from kws.data.plan import Slot, Stretch
from kws.data.selection import Selected
from kws.data.shard_fetch import DamagedError
from kws.data.store import USUAL, Ahead, Caching, Store
from kws.errors import UsageError

Numbers = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """One slot's clips. wave: int16 (B, T), zeros behind a shorter clip; the others int64 (B,)."""

    step: int
    slot: int
    draws: Tensor
    clips: Tensor
    wave: Tensor
    lengths: Tensor
    labels: Tensor


class Reader:
    """Reads clips of one split by id into int16 rows of `samples` samples.

    `class_of` gives each word's label. `verify`: check a clip's crc32 the first time it is read, always or never.
    Raises DamagedError naming shard and clip for what is damaged; with `on_bad` "skip" batches leave such clips out,
    and `skipped` tells which. `caching`: how remote shards are kept.
    """

    def __init__(
        self, index: Index, split: str, class_of: Iterable[int], samples: int, verify: str = "first",
        on_bad: Literal["fail", "skip"] = "fail", caching: Caching = USUAL,
    ) -> None:  # fmt: skip
        # Plain views: indexing np.memmap itself makes an object of that class each time, 6 us instead of 1.
        whole = index.split(split)
        views = {name: np.asarray(column) for name, column in whole.columns.items()}
        self._split, self._samples = dataclasses.replace(whole, columns=views), samples
        self._labels = np.asarray(list(class_of), dtype=np.int64)
        self._store, self._verify, self._on_bad = Store(index.root, index.source, caching), verify, on_bad
        # Memory that forked loader workers share, so that what one epoch's workers checked counts in the next. A map
        # without a file: the kernel fills in pages as clips are checked, so 100 million clips cost nothing up front.
        self._silence = _silence_of(index, self._split, caching)
        self._checked, self._bad = (_shared_flags(len(self._split)) for _ in range(2))

    @property
    def cached(self) -> bool:
        """Whether clips come out of copies in the node's cache."""
        return self._store.cached

    @property
    def skipped(self) -> Numbers:
        """The clips that were left out so far as damaged, (n,), by this process and its loader workers."""
        return np.flatnonzero(self._bad)

    def batch(self, slot: Slot) -> Batch:
        """The slot's clips as tensors."""
        wave = np.empty((len(slot.clips), self._samples), dtype=np.int16)
        lengths = np.full(len(slot.clips), -1, dtype=np.int64)  # stays where a clip is left out
        order = np.argsort(slot.clips, kind="stable")  # the clips of a shard together, as they lie in it
        shards = self._split.values("shard", slot.clips[order])
        edges = (0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(order))
        for low, high in itertools.pairwise(edges):
            if low < high:
                self._fill_or_skip(wave, lengths, order[low:high], slot.clips[order[low:high]])
        labels = self._labels[self._split.values("word", slot.clips)]
        arrays: list[npt.NDArray[Any]] = [slot.draws, slot.clips, wave, lengths, labels]
        if self._on_bad == "skip" and (lengths < 0).any():
            arrays = [array[lengths >= 0] for array in arrays]
        return Batch(slot.step, slot.slot, *map(torch.from_numpy, arrays))

    def ahead(self, stretches: Iterable[Stretch]) -> Ahead | None:
        """Starts to fetch shards ahead of need, where they are fetched at all. To be closed."""
        return self._store.ahead(self._split.shards, stretches)

    def stretches(self, slots: Iterable[Slot]) -> Iterator[Stretch]:
        """Which shards these slots will read, for `ahead`."""
        for slot in slots:
            yield Stretch(slot.step, slot.step + 1, tuple(np.unique(self._split.values("shard", slot.clips)).tolist()))

    def _fill_or_skip(self, wave: codec.Pcm, lengths: Numbers, rows: Numbers, clips: Numbers) -> None:
        try:
            self._fill(wave, lengths, rows, clips)
        except DamagedError:
            if self._on_bad == "fail":
                raise
            if len(clips) == 1:
                self._bad[clips], lengths[rows] = True, -1
                return
            for at in range(len(clips)):  # again, one by one: which of them is it?
                self._fill_or_skip(wave, lengths, rows[at : at + 1], clips[at : at + 1])

    def _fill(self, wave: codec.Pcm, lengths: Numbers, rows: Numbers, clips: Numbers) -> None:
        """Clips of one shard (n,) into rows (n,) of the batch, zeros behind the shorter ones."""
        shard, data = self._shard_of(clips)
        self._check(clips, shard, data)
        starts = self._split.values("offset", clips).astype(np.int64) + codec.WAV_HEADER_BYTES
        counts = (self._split.values("length", clips).astype(np.int64) - codec.WAV_HEADER_BYTES) // 2
        kept = np.minimum(counts, self._samples)
        kept[self._split.values("plain", clips) == 0] = -1  # to be decoded
        lengths[rows] = kept
        # Slices of memoryviews: per clip 0.5 us less than slices of arrays, of the 6 us that it takes.
        out, row_bytes = wave.data.cast("B"), 2 * self._samples
        for row, clip, start, count in zip(rows.tolist(), clips.tolist(), starts.tolist(), kept.tolist(), strict=True):
            if count >= 0:
                at, size = row * row_bytes, 2 * count
                out[at : at + size] = data[start : start + size]
            else:
                pcm = self._decode(clip, shard, data)[: self._samples]
                wave[row, : len(pcm)], lengths[row] = pcm, len(pcm)
        for row in rows[lengths[rows] < self._samples].tolist():
            wave[row, lengths[row] :] = 0

    def read(self, clip: int) -> codec.Pcm:
        """One clip's samples (T,) as packed."""
        clips = np.array([clip])
        shard, data = self._shard_of(clips)
        self._check(clips, shard, data)
        if not self._split.values("plain", clip):
            return self._decode(clip, shard, data)
        return np.frombuffer(self._member(clip, data), dtype="<i2", offset=codec.WAV_HEADER_BYTES)

    def _shard_of(self, clips: Numbers) -> tuple[Shard, memoryview]:
        """The shard that these clips (all of one) lie in, and its bytes."""
        shard = self._split.shards[self._split.values("shard", clips[0])]
        if silence.is_silence(shard):
            return shard, memoryview(self._silence)
        return shard, memoryview(self._store.shard(shard))

    def _member(self, clip: int, data: memoryview) -> memoryview:
        """The clip's file out of its shard's bytes."""
        start = int(self._split.values("offset", clip))
        return data[start : start + int(self._split.values("length", clip))]

    def _decode(self, clip: int, shard: Shard, data: memoryview) -> codec.Pcm:
        try:
            return codec.decode(bytes(self._member(clip, data)))
        except codec.AudioError as error:
            raise DamagedError(f"{self._store.where(shard)}: clip {clip} ({self.name(clip)}): {error}") from error

    def name(self, clip: int) -> str:
        """What the clip is called in its tar: the key, read from the header in front of its audio."""
        shard = self._split.shards[self._split.values("shard", clip)]
        if silence.is_silence(shard):
            return f"{SILENCE}-{clip}"
        view, end = self._store.shard(shard), int(self._split.values("offset", clip))
        # Names that are long or not ASCII stand in a block of their own before the header, marked x.
        before = view[max(0, end - 3 * 512) : end]
        headers = before if before[156:157] == b"x" and before[257:262] == b"ustar" else before[-512:]
        try:
            with tarfile.open(fileobj=io.BytesIO(headers)) as tar:
                member = tar.next()
        except tarfile.TarError:
            member = None
        return member.name.rpartition(".")[0] if member else "?"

    def _check(self, clips: Numbers, shard: Shard, data: memoryview) -> None:
        """Compares the crc32 of these clips (all of one shard) with the index, of those that it is due for."""
        if self._verify == "never" or silence.is_silence(shard):
            return
        due = clips if self._verify == "always" else clips[~self._checked[clips]]
        for clip in due.tolist():
            if zlib.crc32(self._member(clip, data)) != self._split.values("crc32", clip):
                raise DamagedError(
                    f"{self._store.where(shard)}: clip {clip} ({self.name(clip)}): crc32 differs from the index; "
                    "copy or pack the shard again"
                )
        self._checked[due] = True


def _shared_flags(count: int) -> npt.NDArray[np.bool_]:
    return np.frombuffer(mmap.mmap(-1, max(1, count)), dtype=bool)


def stream(
    slots: Callable[[], Iterable[Slot]], reader: Reader, workers: int = 0, pin_memory: bool = False,
    stretches: Callable[[], Iterable[Stretch]] | None = None,
) -> Generator[Batch, None, None]:  # fmt: skip
    """The slots' batches, in the slots' order. Slots without clips come too: their rank still has to take part.
    Closing it ends the loader's workers.

    `stretches`: which shards are needed when, to fetch remote ones ahead; without it the slots are gone through twice.
    """
    pipeline = wds.DataPipeline(_Share(slots), _Read(reader, stretches or (lambda: reader.stretches(slots()))))
    # Without workers the loader would only cost: 0.1 ms a batch, a fifth of reading 64 clips.
    for item in _loader(pipeline, workers, pin_memory) if workers or pin_memory else pipeline:
        if isinstance(item, UsageError):  # raised here, because the loader would wrap it in a worker's traceback
            raise item
        yield item


def _loader(pipeline: wds.DataPipeline, workers: int, pin_memory: bool) -> wds.WebLoader:
    return wds.WebLoader(
        pipeline,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_bind_to_parent if workers else None,
        generator=torch.Generator(),  # its own: making an iterator must not move the global one
    )


class _Share:
    """First stage: the slots that this loader worker reads. Every n-th, as the loader takes them in turn."""

    def __init__(self, slots: Callable[[], Iterable[Slot]]) -> None:
        self._slots = slots

    def __call__(self) -> Iterator[Slot]:
        worker = get_worker_info()
        count, mine = (worker.num_workers, worker.id) if worker else (1, 0)
        return (slot for number, slot in enumerate(self._slots()) if number % count == mine)


class _Read:
    """Second stage: slots to batches, remote shards fetched ahead by a thread of this process."""

    def __init__(self, reader: Reader, stretches: Callable[[], Iterable[Stretch]]) -> None:
        self._reader, self._stretches = reader, stretches

    def __call__(self, slots: Iterable[Slot]) -> Iterator[Batch | UsageError]:
        ahead = self._reader.ahead(self._stretches())
        try:
            for slot in slots:
                if ahead:
                    ahead.at(slot.step)
                yield self._reader.batch(slot)
        except UsageError as error:
            yield error
        finally:
            if ahead:
                ahead.close()


def _bind_to_parent(_: int) -> None:
    """A loader worker leaves signals to the rank it serves, and ends when that is gone however it went."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def noise_of(index: Index, split: str, caching: Caching = USUAL) -> list[codec.Pcm]:
    """The part of every noise recording that a split may hear; [] where the corpus has none."""
    if not len(index.splits.get("noise", ())):
        return []
    reader = Reader(index, "noise", [0] * len(index.words), 0, caching=caching)
    recordings = [reader.read(clip) for clip in range(len(index.split("noise")))]
    heard = [recording[silence.part_of(len(recording), split)] for recording in recordings]
    # A view would pin its shard in the cache for the whole run.
    return [recording.copy() for recording in heard] if reader.cached else heard


def _silence_of(index: Index, split: Split, caching: Caching) -> bytes:
    """What the clips of `kws.data.silence` lie in: the split's noise end to end, or one of zeros, behind the length of
    a WAV header."""
    made = split.made if isinstance(split, Selected) else None
    if made is None:
        return b""
    if made.kind == "zeros":
        return bytes(codec.WAV_HEADER_BYTES + 2 * made.samples)
    joined = np.concatenate(noise_of(index, split.name, caching)).astype("<i2", copy=False)
    return bytes(codec.WAV_HEADER_BYTES) + joined.tobytes()
