"""Reads clips by id: from the memory maps of their shards to int16 samples.

    clip ids -> index columns: shard, offset, length -> memory map (kws/data/store.py)
             -> crc32 and copy (kws/data/gather.py), or decoding -> rows (B, T)

A reader has ids and samples only. Labels are added where batches are made (`SlotReader` of kws/data/stream.py). Any
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
from kws.data.gather import DAMAGED, LEFT, NOT_OPEN, ClipTable, Target, gather
from kws.data.index import Index, Shard, Split
from kws.data.negatives import NegativeWindows
from kws.data.plan import NeededShards, Slot
from kws.data.raw_memory import address_of
from kws.data.selection import TaskSplit
from kws.data.shard_fetch import DamagedError
from kws.data.store import DEFAULT_CACHE, MAX_OPEN_SHARDS, CacheSettings, Prefetcher, ShardStore
from kws.errors import UsageError

Ids = npt.NDArray[np.int64]


class _OpenShards(NamedTuple):
    """Shards that are open: the bytes of each, by its number, and the addresses of all, (shards,), 0 where not open.

    Never changed, only replaced: whoever reads from it holds its maps open, whatever other threads open and close.
    """

    data: dict[int, memoryview]
    addresses: Ids

    def with_shards(self, more: dict[int, memoryview]) -> _OpenShards:
        """Returns these and more shards; of the older ones at most MAX_OPEN_SHARDS, the newest."""
        data = dict([*self.data.items()][-MAX_OPEN_SHARDS:]) | more
        addresses = np.zeros_like(self.addresses)
        for number, contents in data.items():
            addresses[number] = address_of(np.frombuffer(contents, np.uint8))
        return _OpenShards(data, addresses)


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
        self._windows = self._split.negatives if isinstance(self._split, TaskSplit) else None
        self._checked_negatives = np.zeros(len(self._windows.packed) if self._windows else 0, np.bool_)
        self._table = self._clip_table()
        self._open = self._none_open = _OpenShards({}, np.zeros(len(self._split.shards), np.int64))

    @property
    def cached(self) -> bool:
        """Whether clips are read from copies in the node's shard cache."""
        return self._store.cached

    def only_copies(self, clips: Ids) -> bool:
        """Whether these clips need only be copied: none is encoded, and the shards are not read from the node's cache,
        which may have room for few of them."""
        return not self.cached and bool(self._split.values("plain", clips).all())

    @property
    def skipped(self) -> Ids:
        """Ids of the damaged clips left out so far, (n,)."""
        return np.flatnonzero(self._bad)

    def read(self, clip: int) -> codec.Pcm:
        """Returns all samples of one clip, int16 (T,), as packed. Raises DamagedError."""
        contents = self._contents(clip, self._shard_data(int(self._split.values("shard", clip))))
        is_made = clip >= len(self._table.crc32)  # generated silence or a window, which have no crc32
        if self._verify == "always" or (self._verify == "first" and not self._checked[clip]):
            if not is_made and zlib.crc32(contents) != self._split.values("crc32", clip):
                raise self._damaged(clip)
            self._checked[clip] = True
        return self._samples(clip, contents)

    def read_rows(
        self, clips: Ids, excerpt: Excerpt, samples: int = 0, out: codec.Pcm | None = None
    ) -> tuple[codec.Pcm, Ids]:
        """Reads clips (B,), in any order and with repeats, as rows of equal length.

        Returns (wave, lengths): int16 (B, samples) and (B,); `samples` is by default the excerpt's. Each row begins
        where the excerpt of its recording begins; after the end of a shorter one there are zeros. The length of a clip
        that `on_bad` = "skip" leaves out is -1 and its row is undefined. out: the array to fill, contiguous.
        """
        wave = np.empty((len(clips), samples or excerpt.samples), np.int16) if out is None else out
        target = Target(wave, np.full(len(clips), -1, np.int64), excerpt.samples)
        for rows in self._parts(clips):
            self._fill(clips, rows, target, excerpt)
        return wave, target.lengths

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
        if self._windows and clip >= self._windows.first_row:
            recordings, starts = self._windows.locate(np.array([clip]))
            end, seconds = int(self._windows.packed.columns["offset"][recordings[0]]), starts[0] / codec.SAMPLE_RATE_HZ
            return f"{self._member_name(shard, end)} at {seconds:.2f} s"
        return self._member_name(shard, int(self._split.values("offset", clip)))

    def _member_name(self, shard: Shard, end: int) -> str:
        """The key of the member of a shard whose contents begin at byte `end`."""
        view = self._store.map_shard(shard)
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
        """Yields which rows are read at once: all, but from the cache shard by shard, because a small cache may not
        have room for all shards of a batch."""
        if not self.cached:
            yield np.arange(len(clips))
            return
        shards = self._split.values("shard", clips)
        for number in np.unique(shards):
            yield np.flatnonzero(shards == number)

    def _fill(self, clips: Ids, rows: Ids, target: Target, excerpt: Excerpt) -> None:
        """Fills the rows (n,) of the target with their clips, of clips (B,)."""
        if self._windows:
            is_window = clips[rows] >= self._windows.first_row
            self._fill_windows(clips, rows[is_window], target, self._windows)
            rows = rows[~is_window]
        opened = self._none_open if self.cached else self._open
        state = self._gather(clips, rows, opened, target)
        if not state.any():  # plain clips of open shards: as a rule all that there is to do
            return
        closed = state == NOT_OPEN
        if closed.any():
            opened = self._open_shards(clips[rows[closed]])
            state[closed] = self._gather(clips, rows[closed], opened, target)
        if (state == DAMAGED).any():
            self._note_damaged(clips[rows[state == DAMAGED]])
        for row in rows[state == LEFT].tolist():
            self._read_row(row, int(clips[row]), opened, target, excerpt)

    def _fill_windows(self, clips: Ids, rows: Ids, target: Target, windows: NegativeWindows) -> None:
        """Fills the rows (n,) of the target with windows of negatives, of clips (B,). A row that is longer than a
        window continues with the samples after it in the recording. Raises DamagedError with `on_bad` = "fail"."""
        recordings, starts = windows.locate(clips[rows])
        packed, width = windows.packed, target.wave.shape[1]
        shards = windows.first_shard + packed.columns["shard"][recordings].astype(np.int64)
        left = packed.columns["samples"][recordings].astype(np.int64) - starts
        first = packed.columns["offset"][recordings].astype(np.int64) + codec.WAV_HEADER_BYTES + 2 * starts
        opened = self._none_open if self.cached else self._open
        if not opened.data.keys() >= set(shards.tolist()):
            opened = self._open_shards(clips[rows])
        for at, row in enumerate(rows.tolist()):
            data = opened.data.get(int(shards[at]))
            if data is None or not self._is_whole(windows, int(recordings[at]), data, int(clips[row])):
                self._bad[clips[row]] = True
                continue
            count = min(width, int(left[at]))
            target.wave[row, :count] = np.frombuffer(data, "<i2", count, int(first[at]))
            target.wave[row, count:] = 0
            target.lengths[row] = count

    def _is_whole(self, windows: NegativeWindows, recording: int, shard: memoryview, clip: int) -> bool:
        """Whether the crc32 of a recording of the negatives is right; True where `verify` selects no check. Raises
        DamagedError with `on_bad` = "fail"."""
        if self._verify == "never" or (self._verify == "first" and self._checked_negatives[recording]):
            return True
        start, length, crc32 = (int(windows.packed.columns[name][recording]) for name in ("offset", "length", "crc32"))
        if zlib.crc32(shard[start : start + length]) != crc32:
            if self.on_bad == "fail":
                raise self._damaged(clip)
            return False
        self._checked_negatives[recording] = True
        return True

    def _gather(self, clips: Ids, rows: Ids, opened: _OpenShards, target: Target) -> npt.NDArray[np.uint8]:
        check, again = self._verify != "never", self._verify == "always"
        return gather(clips, rows, self._table, opened.addresses, target, check, again)

    def _open_shards(self, clips: Ids) -> _OpenShards:
        """Returns the open shards, with those of the clips. With `on_bad` = "skip" the clips of a damaged shard are
        noted, and it stays closed."""
        more, shards = {}, self._split.values("shard", clips)
        for number in np.unique(shards).tolist():
            try:
                more[number] = self._shard_data(number)
            except DamagedError:
                if self.on_bad == "fail":
                    raise
                self._bad[clips[shards == number]] = True
        if self.cached:
            return self._none_open.with_shards(more)
        self._open = opened = self._open.with_shards(more)
        return opened

    def _read_row(self, row: int, clip: int, opened: _OpenShards, target: Target, excerpt: Excerpt) -> None:
        """Fills the row of a clip that `gather` left: it is encoded, or longer than an excerpt."""
        number = int(self._split.values("shard", clip))
        shard = opened.data[number] if number in opened.data else self._shard_data(number)
        try:
            pcm = self._samples(clip, self._contents(clip, shard))
        except DamagedError:
            if self.on_bad == "fail":
                raise
            self._bad[clip] = True
            return
        pcm = pcm[excerpt.start(pcm) :][: target.wave.shape[1]]
        target.wave[row, : len(pcm)], target.wave[row, len(pcm) :] = pcm, 0
        target.lengths[row] = len(pcm)

    def _contents(self, clip: int, shard: memoryview) -> memoryview:
        """Returns the clip's audio file, a part of its shard's bytes."""
        start = int(self._split.values("offset", clip))
        return shard[start : start + int(self._split.values("length", clip))]

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
                raise self._outside(shard)
            if self._windows and self._windows.bytes_needed(number) > len(data):
                raise self._outside(shard)
            self._inside[number] = True
        return data

    def _outside(self, shard: Shard) -> UsageError:
        address = self._store.address(shard)
        return UsageError(f"{address}: the index has clips that are not inside this shard; pack it again")

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

    def _samples(self, clip: int, contents: memoryview) -> codec.Pcm:
        """Returns all samples of an audio file; of a plain one as a view."""
        if self._split.values("plain", clip):
            return np.frombuffer(contents, dtype="<i2", offset=codec.WAV_HEADER_BYTES)
        try:
            return codec.decode(bytes(contents))
        except codec.AudioError as error:
            raise self._damaged(clip, str(error)) from error

    def _clip_table(self) -> ClipTable:
        columns, made = self._split.columns, self._split.silence if isinstance(self._split, TaskSplit) else None
        starts, samples = (made.starts, made.samples) if made else (np.zeros(0, np.int64), 0)
        return ClipTable(
            columns["shard"], columns["offset"], columns["length"], columns["plain"], columns["crc32"], self._checked,
            np.frombuffer(self._silence or b" ", np.uint8), starts, samples,
        )  # fmt: skip


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
