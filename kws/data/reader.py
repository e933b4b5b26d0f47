"""Reads clips by id: from the memory maps of their shards to int16 samples.

    clip ids -> index columns: shard, offset, length -> memory map (kws/data/store.py)
             -> crc32 and copy (kws/data/gather.py), or decoding -> rows (B, T)

A reader knows ids and samples only. Labels are added where batches are made (`SlotReader` of kws/data/stream.py). Any
number of threads may use one reader: each holds the maps that it reads from until its rows are filled.
"""

from __future__ import annotations

import dataclasses
import io
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
from kws.data.gather import Members, address_of, gather
from kws.data.index import Index, Split
from kws.data.plan import NeededShards, Slot
from kws.data.selection import TaskSplit
from kws.data.shard_fetch import DamagedError
from kws.data.store import DEFAULT_CACHE, CacheSettings, Prefetcher, ShardStore
from kws.errors import UsageError

Ids = npt.NDArray[np.int64]
_NO_CRC32 = np.zeros(0, np.uint32)


class _Rows(NamedTuple):
    """What `Reader.read_rows` fills: wave (B, samples) and lengths (B,), from the recordings' excerpts on."""

    wave: codec.Pcm
    lengths: Ids
    excerpt: Excerpt


class _Files(NamedTuple):
    """Where the audio files of clips (n,) are: `data`, the bytes of each of their shards by number, which hold the maps
    open; the number of each clip's shard; the start of its file in that; its size in bytes."""

    data: dict[int, memoryview]
    shard: Ids
    start: Ids
    size: Ids

    def contents(self, at: int) -> memoryview:
        """Returns the bytes of one file."""
        start = int(self.start[at])
        return self.data[int(self.shard[at])][start : start + int(self.size[at])]


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
        # The kernel allocates pages of zeros when they are written: 100 million clips cost nothing at first.
        self._checked, self._bad = (np.zeros(len(self._split), np.bool_) for _ in range(2))
        self._inside = np.zeros(len(self._split.shards), np.bool_)  # shards whose index rows were checked

    @property
    def cached(self) -> bool:
        """Whether clips are read from copies in the node's shard cache."""
        return self._store.cached

    @property
    def skipped(self) -> Ids:
        """Ids of the damaged clips left out so far, (n,)."""
        return np.flatnonzero(self._bad)

    def read(self, clip: int) -> codec.Pcm:
        """Returns all samples of one clip, int16 (T,), as packed. Raises DamagedError."""
        clips = np.array([clip])
        files = self._locate(clips)
        contents = files.contents(0)
        if self._due(clips)[0] and zlib.crc32(contents) != self._split.values("crc32", clip):
            raise self._damaged(clip)
        self._checked[clip] = True
        if not self._split.values("plain", clip):
            return self._decode(clip, contents)
        return np.frombuffer(contents, dtype="<i2", offset=codec.WAV_HEADER_BYTES)

    def read_rows(
        self, clips: Ids, excerpt: Excerpt, samples: int = 0, out: codec.Pcm | None = None
    ) -> tuple[codec.Pcm, Ids]:
        """Reads clips (B,), in any order and with repeats, as rows of equal length.

        Returns (wave, lengths): int16 (B, samples) and (B,); `samples` is by default the excerpt's. Each row begins
        where the excerpt of its recording begins; after the end of a shorter one there are zeros. The length of a clip
        that `on_bad` = "skip" leaves out is -1 and its row is undefined. out: the array to fill, contiguous.
        """
        wave = np.empty((len(clips), samples or excerpt.samples), np.int16) if out is None else out
        rows = _Rows(wave, np.full(len(clips), -1, np.int64), excerpt)
        for places in self._parts(clips):
            self._fill(rows, places, clips[places])
        return wave, rows.lengths

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

    def _parts(self, clips: Ids) -> Iterator[Ids]:
        """Yields which clips are read at once, as their places in `clips`: all, but from the cache shard by shard,
        because a small cache may not have room for all shards of a batch at once."""
        if not self.cached:
            yield np.arange(len(clips))
            return
        shards = self._split.values("shard", clips)
        for number in np.unique(shards):
            yield np.flatnonzero(shards == number)

    def _fill(self, into: _Rows, places: Ids, clips: Ids) -> None:
        """Reads clips (n,) into the rows `places` (n,), padded with zeros, and sets their lengths."""
        try:
            files = self._locate(clips)
        except DamagedError:
            if self.on_bad == "fail":
                raise
            self._fill_shard_by_shard(into, places, clips)
            return
        plain = self._split.values("plain", clips) != 0
        members = self._members(files, clips, plain, into)
        whole = gather(members, into.wave, places)
        if members.due.any():
            self._checked[clips[members.due & whole]] = True
        if not whole.all():
            self._note_damaged(clips[~whole])
        into.lengths[places] = np.where(whole, members.samples, -1)
        for at in np.flatnonzero(whole & ~plain).tolist():
            self._decode_into(into, int(places[at]), int(clips[at]), files.contents(at))

    def _fill_shard_by_shard(self, into: _Rows, places: Ids, clips: Ids) -> None:
        """`_fill` without the clips of shards that are damaged as a whole."""
        shards = self._split.values("shard", clips)
        for number in np.unique(shards):
            of_shard = shards == number
            try:
                self._locate(clips[of_shard])
            except DamagedError:
                self._bad[clips[of_shard]] = True
                continue
            self._fill(into, places[of_shard], clips[of_shard])

    def _members(self, files: _Files, clips: Ids, plain: npt.NDArray[np.bool_], into: _Rows) -> Members:
        """What `gather` does with each clip; those that are not plain have to be decoded after it."""
        skipped = np.full(len(clips), codec.WAV_HEADER_BYTES)
        samples = (files.size - codec.WAV_HEADER_BYTES) // 2
        for at in np.flatnonzero(plain & (samples > into.excerpt.samples)).tolist():
            pcm = np.frombuffer(files.contents(at), "<i2", int(samples[at]), codec.WAV_HEADER_BYTES)
            start = into.excerpt.start(pcm)
            skipped[at] += 2 * start
            samples[at] -= start
        samples = np.where(plain, np.minimum(samples, into.wave.shape[1]), -1)
        due = self._due(clips)
        crc32 = self._split.values("crc32", clips) if due.any() else _NO_CRC32
        bases = {number: address_of(data) for number, data in files.data.items()}
        addresses = np.array([bases[number] for number in files.shard.tolist()], np.int64) + files.start
        return Members(addresses, files.size, skipped, samples, due, crc32)

    def _locate(self, clips: Ids) -> _Files:
        """Maps the shards of the clips. Raises DamagedError for a shard that is damaged as a whole."""
        shards = self._split.values("shard", clips)
        data = {number: self._shard_data(number) for number in sorted(set(shards.tolist()))}
        starts, sizes = (self._split.values(name, clips).astype(np.int64) for name in ("offset", "length"))
        return _Files(data, shards, starts, sizes)

    def _shard_data(self, number: int) -> memoryview:
        """Returns the bytes of a shard. Raises UsageError where the index has clips outside of it."""
        shard = self._split.shards[number]
        if silence.is_silence(shard):
            return memoryview(self._silence)
        data = memoryview(self._store.map_shard(shard))
        if not self._inside[number]:
            rows = slice(shard.start, shard.start + shard.clips)
            start, size, plain = (self._split.columns[name][rows] for name in ("offset", "length", "plain"))
            ends = start.astype(np.int64) + size.astype(np.int64)
            if (ends > len(data)).any() or (size[plain != 0] < codec.WAV_HEADER_BYTES).any():
                raise UsageError(
                    f"{self._store.address(shard)}: the index has clips that are not inside this shard; pack it again"
                )
            self._inside[number] = True
        return data

    def _due(self, clips: Ids) -> npt.NDArray[np.bool_]:
        """Whether the crc32 of each clip is to be compared, (n,). Generated silence has none."""
        if self._verify == "never":
            return np.zeros(len(clips), np.bool_)
        packed = clips < len(self._split.columns["crc32"])
        return packed if self._verify == "always" else packed & ~self._checked[clips]

    def _note_damaged(self, clips: Ids) -> None:
        """Notes clips whose crc32 differs. Raises DamagedError with `on_bad` = "fail"."""
        if self.on_bad == "fail":
            raise self._damaged(int(clips.min()))
        self._bad[clips] = True

    def _damaged(
        self, clip: int, why: str = "crc32 differs from the index; copy or pack the shard again"
    ) -> DamagedError:
        shard = self._split.shards[self._split.values("shard", clip)]
        return DamagedError(f"{self._store.address(shard)}: clip {clip} ({self.name(clip)}): {why}")

    def _decode_into(self, into: _Rows, row: int, clip: int, contents: memoryview) -> None:
        try:
            pcm = self._decode(clip, contents)
        except DamagedError:
            if self.on_bad == "fail":
                raise
            self._bad[clip] = True
            return
        pcm = pcm[into.excerpt.start(pcm) :][: into.wave.shape[1]]
        into.wave[row, : len(pcm)], into.wave[row, len(pcm) :], into.lengths[row] = pcm, 0, len(pcm)

    def _decode(self, clip: int, contents: memoryview) -> codec.Pcm:
        try:
            return codec.decode(bytes(contents))
        except codec.AudioError as error:
            raise self._damaged(clip, str(error)) from error


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
