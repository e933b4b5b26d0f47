"""Reads clips by id: from the memory maps of their shards to int16 samples.

    clip ids -> index columns: shard, offset, length -> memory map (kws/data/store.py) -> crc32 -> rows (B, T)

A reader knows ids and samples only. Labels are added where batches are made (`SlotReader` of kws/data/stream.py).
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import mmap
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kws.audio import codec
from kws.corpus.tasks import SILENCE
from kws.data import silence
from kws.data.excerpt import Excerpt
from kws.data.index import Index, Shard, Split
from kws.data.plan import NeededShards, Slot
from kws.data.selection import TaskSplit
from kws.data.shard_fetch import DamagedError
from kws.data.store import DEFAULT_CACHE, CacheSettings, Prefetcher, ShardStore

Ids = npt.NDArray[np.int64]


class _Rows(NamedTuple):
    """What `Reader.read_rows` fills: wave (B, samples) and lengths (B,), from the recordings' excerpts on."""

    wave: codec.Pcm
    lengths: Ids
    excerpt: Excerpt


class Reader:
    """Reads clips of one split by id.

    verify: compare a clip's crc32 with the index the first time it is read, "always" or "never". on_bad: a damaged clip
    raises DamagedError, which names shard and clip ("fail"), or is left out of rows and noted in `skipped` ("skip").
    """

    def __init__(
        self, index: Index, split: str, verify: str = "first", on_bad: Literal["fail", "skip"] = "fail",
        cache_settings: CacheSettings = DEFAULT_CACHE,
    ) -> None:  # fmt: skip
        # Plain views: indexing an np.memmap makes an object of that class each time, 6 us instead of 1.
        packed = index.split(split)
        views = {name: np.asarray(column) for name, column in packed.columns.items()}
        self._split = dataclasses.replace(packed, columns=views)
        self._store, self._verify, self.on_bad = ShardStore(index.root, index.source, cache_settings), verify, on_bad
        self._silence = _silence_bytes(index, self._split, cache_settings)
        # Memory shared with forked loader workers, so that clips checked in one epoch are not checked in the next. The
        # kernel allocates the pages of an anonymous map when they are written: 100 million clips cost nothing at first.
        self._checked, self._bad = (_shared_flags(len(self._split)) for _ in range(2))

    @property
    def cached(self) -> bool:
        """Whether clips are read from copies in the node's shard cache."""
        return self._store.cached

    @property
    def skipped(self) -> Ids:
        """Ids of the damaged clips left out so far by this process and its loader workers, (n,)."""
        return np.flatnonzero(self._bad)

    def read(self, clip: int) -> codec.Pcm:
        """Returns all samples of one clip, int16 (T,), as packed. Raises DamagedError."""
        clips = np.array([clip])
        shard, data = self._shard_of(clips)
        self._check_crc32(clips, shard, data)
        if not self._split.values("plain", clip):
            return self._decode(clip, shard, data)
        return np.frombuffer(self._member(clip, data), dtype="<i2", offset=codec.WAV_HEADER_BYTES)

    def read_rows(self, clips: Ids, excerpt: Excerpt, samples: int = 0) -> tuple[codec.Pcm, Ids]:
        """Reads clips (B,), in any order and with repeats, as rows of equal length.

        Returns (wave, lengths): int16 (B, samples) and (B,); `samples` is by default the excerpt's. Each row begins
        where the excerpt of its recording begins; after the end of a shorter one there are zeros. The length of a clip
        that `on_bad` = "skip" leaves out is -1 and its row is undefined.
        """
        wave = np.empty((len(clips), samples or excerpt.samples), dtype=np.int16)
        lengths = np.full(len(clips), -1, dtype=np.int64)
        order = np.argsort(clips, kind="stable")  # groups the clips by shard, in the order of their offsets
        shards = self._split.values("shard", clips[order])
        edges = (0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(order))
        for low, high in itertools.pairwise(edges):
            if low < high:
                self._fill_or_skip(_Rows(wave, lengths, excerpt), order[low:high], clips[order[low:high]])
        return wave, lengths

    def words(self, clips: Ids) -> Ids:
        """Returns the numbers of the clips' words in Index.words, (B,)."""
        return self._split.values("word", clips)

    def prefetch(self, needed: Iterable[NeededShards]) -> Prefetcher | None:
        """Starts to fetch shards ahead of their use; None where shards are read directly. The caller closes it."""
        return self._store.prefetch(self._split.shards, needed)

    def needed_shards(self, slots: Iterable[Slot]) -> Iterator[NeededShards]:
        """Yields which shards these slots read, for `prefetch`."""
        for slot in slots:
            shards = np.unique(self._split.values("shard", slot.clips))
            yield NeededShards(slot.step, slot.step + 1, tuple(shards.tolist()))

    def name(self, clip: int) -> str:
        """Returns the clip's key in its tar, read from the header in front of its audio."""
        shard = self._split.shards[self._split.values("shard", clip)]
        if silence.is_silence(shard):
            return f"{SILENCE}-{clip}"
        view, end = self._store.map_shard(shard), int(self._split.values("offset", clip))
        # A long or non-ASCII name is in a block of its own before the header, marked x.
        before = view[max(0, end - 3 * 512) : end]
        headers = before if before[156:157] == b"x" and before[257:262] == b"ustar" else before[-512:]
        try:
            with tarfile.open(fileobj=io.BytesIO(headers)) as tar:
                member = tar.next()
        except tarfile.TarError:
            member = None
        return member.name.rpartition(".")[0] if member else "?"

    def _fill_or_skip(self, into: _Rows, rows: Ids, clips: Ids) -> None:
        """`_fill`, but with `on_bad` = "skip" damaged clips are noted and left out."""
        try:
            self._fill(into, rows, clips)
        except DamagedError:
            if self.on_bad == "fail":
                raise
            if len(clips) == 1:
                self._bad[clips], into.lengths[rows] = True, -1
                return
            for at in range(len(clips)):  # one by one, to find which of them are damaged
                self._fill_or_skip(into, rows[at : at + 1], clips[at : at + 1])

    def _fill(self, into: _Rows, rows: Ids, clips: Ids) -> None:
        """Reads clips (n,) of one shard into the rows (n,), padded with zeros, and sets their lengths."""
        shard, data = self._shard_of(clips)
        self._check_crc32(clips, shard, data)
        wave, lengths, excerpt = into
        samples = wave.shape[1]
        starts = self._split.values("offset", clips).astype(np.int64) + codec.WAV_HEADER_BYTES
        counts = (self._split.values("length", clips).astype(np.int64) - codec.WAV_HEADER_BYTES) // 2
        plain = self._split.values("plain", clips) != 0
        for at in np.flatnonzero(plain & (counts > excerpt.samples)).tolist():
            start, count = int(starts[at]), int(counts[at])
            skipped = excerpt.start(np.frombuffer(data[start : start + 2 * count], "<i2"))
            starts[at], counts[at] = start + 2 * skipped, count - skipped
        kept = np.minimum(counts, samples)
        kept[~plain] = -1  # to be decoded
        lengths[rows] = kept
        # Slices of memoryviews take 0.5 us per clip less than slices of arrays, of 6 us in all.
        out, row_bytes = wave.data.cast("B"), 2 * samples
        for row, clip, start, count in zip(rows.tolist(), clips.tolist(), starts.tolist(), kept.tolist(), strict=True):
            if count >= 0:
                at, size = row * row_bytes, 2 * count
                out[at : at + size] = data[start : start + size]
            else:
                pcm = self._decode(clip, shard, data)
                pcm = pcm[excerpt.start(pcm) :][:samples]
                wave[row, : len(pcm)], lengths[row] = pcm, len(pcm)
        for row in rows[lengths[rows] < samples].tolist():
            wave[row, lengths[row] :] = 0

    def _shard_of(self, clips: Ids) -> tuple[Shard, memoryview]:
        """Returns the shard of these clips, which are all of one, and its bytes."""
        shard = self._split.shards[self._split.values("shard", clips[0])]
        if silence.is_silence(shard):
            return shard, memoryview(self._silence)
        return shard, memoryview(self._store.map_shard(shard))

    def _member(self, clip: int, data: memoryview) -> memoryview:
        """Returns the clip's audio file, a part of its shard's bytes."""
        start = int(self._split.values("offset", clip))
        return data[start : start + int(self._split.values("length", clip))]

    def _decode(self, clip: int, shard: Shard, data: memoryview) -> codec.Pcm:
        try:
            return codec.decode(bytes(self._member(clip, data)))
        except codec.AudioError as error:
            raise DamagedError(f"{self._store.address(shard)}: clip {clip} ({self.name(clip)}): {error}") from error

    def _check_crc32(self, clips: Ids, shard: Shard, data: memoryview) -> None:
        """Compares the clips' crc32 with the index where `verify` asks for it. The clips are all of one shard."""
        if self._verify == "never" or silence.is_silence(shard):
            return
        due = clips if self._verify == "always" else clips[~self._checked[clips]]
        for clip in due.tolist():
            if zlib.crc32(self._member(clip, data)) != self._split.values("crc32", clip):
                raise DamagedError(
                    f"{self._store.address(shard)}: clip {clip} ({self.name(clip)}): crc32 differs from the index; "
                    "copy or pack the shard again"
                )
        self._checked[due] = True


def _shared_flags(count: int) -> npt.NDArray[np.bool_]:
    return np.frombuffer(mmap.mmap(-1, max(1, count)), dtype=bool)


def read_noise(index: Index, split: str, cache_settings: CacheSettings = DEFAULT_CACHE) -> list[codec.Pcm]:
    """Returns the part of every noise recording that belongs to a split; [] where the corpus has no noise."""
    if not len(index.splits.get("noise", ())):
        return []
    reader = Reader(index, "noise", cache_settings=cache_settings)
    recordings = [reader.read(clip) for clip in range(len(index.split("noise")))]
    parts = [recording[silence.split_part(len(recording), split)] for recording in recordings]
    # Copies of cached noise: a view would pin its shard in the cache for the whole run.
    return [part.copy() for part in parts] if reader.cached else parts


def _silence_bytes(index: Index, split: Split, cache_settings: CacheSettings) -> bytes:
    """Returns the bytes of the generated shard of silence (kws/data/silence.py); b"" where the split has none.

    They are the split's noise end to end, or the zeros of one clip, after the length of a WAV header.
    """
    made = split.silence if isinstance(split, TaskSplit) else None
    if made is None:
        return b""
    if made.kind == "zeros":
        return bytes(codec.WAV_HEADER_BYTES + 2 * made.samples)
    joined = np.concatenate(read_noise(index, split.name, cache_settings)).astype("<i2", copy=False)
    return bytes(codec.WAV_HEADER_BYTES) + joined.tobytes()
