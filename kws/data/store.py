"""Reads shards as read-only memory maps: of local files, or of copies in the cache on the node's disk.

folder -------------------------------------------------> memory map    size compared with the index
http(s)://, s3://, pipe: --fetch--> cache (bounded) ----> memory map    size and sha256 compared when fetched
                                      ^
    Prefetcher: a thread that fetches shards in the order in which the plan needs them
"""

from __future__ import annotations

import collections
import dataclasses
import math
import mmap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kws.config import DataConfig
from kws.data import shard_fetch
from kws.data.cache import GB, CacheFullError, ShardCache, default_cache_folder
from kws.data.index import Shard
from kws.data.plan import NeededShards
from kws.data.shard_fetch import DamagedError, ShardSource
from kws.errors import UsageError, unreadable
from kws.transport import RetryPolicy

MAX_OPEN_SHARDS = 64
"""Maps that a store keeps open. An epoch reads a shard within few steps, so the shards of a few lanes are enough."""


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """Where copies of remote shards are kept, how much disk they may take, and how fetching is retried.

    folder "": the default folder for remote shards, and no copies of local shards.
    """

    folder: str = ""
    gigabytes: float = DataConfig.cache_gb
    retry: RetryPolicy = dataclasses.field(default_factory=RetryPolicy)
    full_timeout_s: float = 60.0
    """How long to wait for other processes to free shards where the whole cache is in use."""

    @classmethod
    def from_config(cls, data: DataConfig) -> CacheSettings:
        """Takes the folder (data.cache_dir) and the size (data.cache_gb) from a run's config."""
        return cls(data.cache_dir, data.cache_gb)

    @property
    def max_bytes(self) -> int:
        """The largest size of the cache."""
        return round(self.gigabytes * GB)

    @property
    def cache_folder(self) -> Path:
        """The folder of the cache, which may not exist yet."""
        return Path(self.folder).expanduser() if self.folder else default_cache_folder()

    def is_used(self, source: ShardSource) -> bool:
        """Whether the shards of this source are copied to the cache; else they are mapped directly."""
        return source.kind != "folder" or bool(self.folder)

    def open_cache(self, source: ShardSource) -> ShardCache | None:
        """Returns the cache for the shards of this source; None where they are mapped directly."""
        return ShardCache(self.cache_folder, self.max_bytes) if self.is_used(source) else None


DEFAULT_CACHE = CacheSettings()


def require_room(root: Path, source: str, settings: CacheSettings, needed_bytes: int) -> None:
    """Raises UsageError where the cache is smaller than what this node's ranks need at once (Plan.bytes_at_once)."""
    if settings.is_used(ShardSource(root, source)) and needed_bytes > settings.max_bytes:
        wanted = math.ceil(needed_bytes / GB * 100) / 100
        raise UsageError(
            f"data.cache_gb: {settings.gigabytes:g}, but the processes of this node need {wanted:g} GB of shards at "
            f"once (the current and the next window of each lane); use --set data.cache_gb={wanted:g} or a smaller "
            "--set data.window=..."
        )


class ShardStore:
    """The shards of a corpus as memory maps. Any number of threads may use it.

    root: the folder of the index; source: Index.source.
    """

    def __init__(self, root: Path, source: str = "", cache_settings: CacheSettings = DEFAULT_CACHE) -> None:
        self._source, self._settings = ShardSource(root, source), cache_settings
        self._cache = cache_settings.open_cache(self._source)
        self._maps: collections.OrderedDict[str, mmap.mmap] = collections.OrderedDict()
        self._lock = threading.Lock()  # of _maps; not held while a shard is fetched
        self._damaged: dict[str, str] = {}
        self._pause_prefetcher: Callable[[], None] = lambda: None

    @property
    def cached(self) -> bool:
        """Whether shards are copied to a cache, so that prefetching is useful."""
        return self._cache is not None

    def address(self, shard: Shard) -> str:
        """Returns the shard's address for messages."""
        return self._source.shown(shard.name)

    def map_shard(self, shard: Shard) -> mmap.mmap:
        """Returns the shard as a read-only map. Raises UsageError where it cannot be read, DamagedError where its size
        or content differs from the index."""
        with self._lock:
            if shard.name in self._maps:
                self._maps.move_to_end(shard.name)
                return self._maps[shard.name]
        mapped = self._map_cached(shard) if self._cache else self._map_local(shard)
        with self._lock:
            self._maps[shard.name] = mapped
            if len(self._maps) > MAX_OPEN_SHARDS:
                self._maps.popitem(last=False)  # the map closes when its last view is freed
        return mapped

    def _map_local(self, shard: Shard) -> mmap.mmap:
        path = Path(self._source.address(shard.name))
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise unreadable(error, path, "the index names this shard: copy or pack it again") from error
        except ValueError as error:  # mmap's, for an empty file
            raise DamagedError(f"{path}: cannot be read ({error}); copy or pack this shard again") from error
        if len(mapped) != shard.bytes:
            raise DamagedError(f"{path}: {len(mapped)} bytes, the index has {shard.bytes}; copy or pack it again")
        return mapped

    def _map_cached(self, shard: Shard) -> mmap.mmap:
        """Maps a shard from the cache. While the whole cache is in use, frees this process's own shards and waits."""
        deadline, pause_s = time.monotonic() + self._settings.full_timeout_s, 0.0
        while True:
            try:
                mapped = self.pin(shard)
                assert mapped is not None, "waited"
                return mapped
            except CacheFullError:
                self.release()
                self._pause_prefetcher()
                if shard.bytes > self._settings.max_bytes or time.monotonic() > deadline:
                    raise
                time.sleep(pause_s)
                pause_s = 0.02

    def pin(self, shard: Shard, wait: bool = True, stop: threading.Event | None = None) -> mmap.mmap | None:
        """Maps a shard from the cache, fetching it first if needed. It stays in the cache while the map exists.

        May be called from any thread. Without `wait`, returns None while another process is fetching the shard. Raises
        CacheFullError, UsageError, and FetchCancelledError after `stop` is set.
        """
        assert self._cache is not None
        if shard.name in self._damaged:  # fetched and compared once, not again for each of its clips
            raise DamagedError(self._damaged[shard.name])
        try:
            return self._cache.open(
                shard, lambda file: shard_fetch.fetch_shard(self._source, shard, file, self._settings.retry, stop), wait
            )
        except DamagedError as error:
            self._damaged[shard.name] = str(error)
            raise

    def release(self) -> None:
        """Closes this store's maps of cached shards, which may then be removed from the cache. Keeps local maps."""
        if self._cache:
            with self._lock:
                self._maps.clear()

    def prefetch(self, shards: Sequence[Shard], needed: Iterable[NeededShards]) -> Prefetcher | None:
        """Starts to fetch shards ahead of their use; None where shards are mapped directly. The caller closes it."""
        if not self.cached:
            return None
        prefetcher = Prefetcher(self, shards, needed)
        self._pause_prefetcher = prefetcher.pause
        return prefetcher


class Prefetcher:
    """A thread that fetches the shards needed now and next into the cache and pins them there.

    It holds at most two entries of `needed`, the amount that `require_room` checks. It only fills the cache: a shard
    that it cannot fetch raises its error where the shard is read.
    """

    def __init__(self, store: ShardStore, shards: Sequence[Shard], needed: Iterable[NeededShards]) -> None:
        self._store, self._shards, self._needed = store, shards, _merge_equal(needed)
        self._held: collections.deque[tuple[NeededShards, list[mmap.mmap]]] = collections.deque()
        self._changed, self._stop, self._step = threading.Condition(), threading.Event(), -1
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="kws-prefetch", daemon=True)
        self._thread.start()

    def advance(self, step: int) -> None:
        """Sets the step that is being read. Pins of shards that are no longer needed are released, the reader's too."""
        with self._changed:
            self._step, self._paused = step, False
            num_released = 0
            while self._held and self._held[0][0].end_step <= step:
                self._held.popleft()
                num_released += 1
            self._changed.notify_all()
        if num_released:
            self._store.release()

    def pause(self) -> None:
        """Releases all pins and fetches nothing until the next step, because the reader needs the space."""
        with self._changed:
            self._paused = True
            for _, maps in self._held:
                maps.clear()

    def close(self) -> None:
        """Ends the thread and releases its pins. A thread that waits on a silent connection ends after its timeout."""
        with self._changed:
            self._stop.set()
            self._held.clear()
            self._changed.notify_all()
        self._store.release()
        self._thread.join(1.0)

    def _run(self) -> None:
        for needed in self._needed:
            with self._changed:
                self._changed.wait_for(lambda: self._stop.is_set() or len(self._held) < 2)
                if self._stop.is_set():
                    return
                if needed.end_step <= self._step:
                    continue
                maps: list[mmap.mmap] = []
                self._held.append((needed, maps))
            self._fetch(needed, maps)

    def _fetch(self, needed: NeededShards, maps: list[mmap.mmap]) -> None:
        # A shard of 0 bytes is generated silence and has no file (kws/data/silence.py).
        todo = collections.deque(number for number in needed.shards if self._shards[number].bytes)
        while todo and not self._stop.is_set() and self._step < needed.end_step:
            if self._paused:
                self._stop.wait(0.02)
                continue
            number = todo.popleft()
            try:
                pinned = self._store.pin(self._shards[number], wait=False, stop=self._stop)
            except CacheFullError:
                pinned = None
            except (UsageError, OSError, shard_fetch.FetchCancelledError):
                continue
            if pinned is None:  # another process is fetching it, or the cache is full: the other shards first
                todo.append(number)
                self._stop.wait(0.02)
                continue
            with self._changed:
                if not (self._stop.is_set() or self._paused) and self._step < needed.end_step:
                    maps.append(pinned)
            del pinned


def _merge_equal(needed: Iterable[NeededShards]) -> Iterator[NeededShards]:
    """Merges neighbours that need the same shards."""
    last: NeededShards | None = None
    for entry in needed:
        if last is not None and set(last.shards) == set(entry.shards):
            last = dataclasses.replace(last, end_step=entry.end_step)
            continue
        if last is not None:
            yield last
        last = entry
    if last is not None:
        yield last
