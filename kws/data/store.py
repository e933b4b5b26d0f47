"""Shards as bytes: read-only memory maps, of local files or of copies in this node's cache.

folder ------------------------------------------------> map      size checked against the index
http(s)://, s3://, pipe: --fetch--> cache (bounded) ---> map      size and sha256 checked when it is fetched
                                      ^
        Ahead, a thread, in the order in which the plan will need them
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
from kws.data.cache import GB, Cache, NoRoomError, default_folder
from kws.data.index import Shard
from kws.data.plan import Stretch
from kws.data.shard_fetch import DamagedError, Source
from kws.errors import UsageError
from kws.transport import Patience

# Maps kept open a process: an epoch reads a shard in one stretch, so a few lanes' worth is enough.
_OPEN_SHARDS = 64


@dataclasses.dataclass(frozen=True)
class Caching:
    """Where copies of remote shards go, how much of the disk they may take, and how patiently they are fetched.

    `folder` "": the default folder for remote shards, and no copies of local ones.
    """

    folder: str = ""
    gigabytes: float = DataConfig.cache_gb
    patience: Patience = dataclasses.field(default_factory=Patience)
    room_s: float = 60.0
    """How long to wait for others to give up shards where all that the cache holds is in use."""

    @classmethod
    def of(cls, data: DataConfig) -> Caching:
        """As the settings say."""
        return cls(data.cache_dir, data.cache_gb)

    @property
    def max_bytes(self) -> int:
        """The most that the cache may hold."""
        return round(self.gigabytes * GB)

    def cache(self, source: Source) -> Cache | None:
        """The cache that this source's shards go through; None where they are mapped where they lie."""
        if source.kind == "folder" and not self.folder:
            return None
        return Cache(Path(self.folder).expanduser() if self.folder else default_folder(), self.max_bytes)


USUAL = Caching()


def require_room(root: Path, source: str, caching: Caching, needed_bytes: int) -> None:
    """Refuses a cache smaller than what this node's processes need at once. `needed_bytes`: Plan.bytes_at_once."""
    if caching.cache(Source(root, source)) is not None and needed_bytes > caching.max_bytes:
        wanted = math.ceil(needed_bytes / GB * 100) / 100
        raise UsageError(
            f"data.cache_gb: {caching.gigabytes:g}, but this node's processes need {wanted:g} GB of shards at once "
            f"(each lane's window and the next); use --set data.cache_gb={wanted:g} or a smaller --set data.window=..."
        )


class Store:
    """The shards of a corpus. Safe to hand to loader workers, which open their own maps.

    `root`: the folder of the index; `source`: Index.source.
    """

    def __init__(self, root: Path, source: str = "", caching: Caching = USUAL) -> None:
        self._source, self._caching = Source(root, source), caching
        self._cache = caching.cache(self._source)
        self._maps: collections.OrderedDict[str, mmap.mmap] = collections.OrderedDict()
        self._damaged: dict[str, str] = {}
        self._give_way: Callable[[], None] = lambda: None

    @property
    def cached(self) -> bool:
        """Whether shards are fetched to a cache, and fetching ahead is of use."""
        return self._cache is not None

    def where(self, shard: Shard) -> str:
        """The shard's address, for messages."""
        return self._source.shown(shard.name)

    def shard(self, shard: Shard) -> mmap.mmap:
        """The whole shard, read-only. Raises UsageError where it cannot be had, DamagedError where it is another."""
        if shard.name not in self._maps:
            if len(self._maps) >= _OPEN_SHARDS:
                self._maps.popitem(last=False)  # closed when the last view of it is gone
            self._maps[shard.name] = self._wait_for(shard) if self._cache else self._open(shard)
        self._maps.move_to_end(shard.name)
        return self._maps[shard.name]

    def _open(self, shard: Shard) -> mmap.mmap:
        path = Path(self._source.address(shard.name))
        try:
            with path.open("rb") as file:
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            fault = DamagedError if isinstance(error, ValueError) else UsageError  # mmap's, of an empty file
            raise fault(
                f"{path}: cannot be read ({error}); the index names this shard: copy or pack it again"
            ) from error
        if len(whole) != shard.bytes:
            raise DamagedError(f"{path}: {len(whole)} bytes, the index has {shard.bytes}; copy or pack it again")
        return whole

    def _wait_for(self, shard: Shard) -> mmap.mmap:
        """Through the cache. Where all of that is in use, this process gives up what it has, so that one can go on."""
        give_up, pause_s = time.monotonic() + self._caching.room_s, 0.0
        while True:
            try:
                whole = self.pin(shard)
                assert whole is not None, "waited"
                return whole
            except NoRoomError:
                self.release()
                self._give_way()
                if shard.bytes > self._caching.max_bytes or time.monotonic() > give_up:
                    raise
                time.sleep(pause_s)
                pause_s = 0.02

    def pin(self, shard: Shard, wait: bool = True, stop: threading.Event | None = None) -> mmap.mmap | None:
        """The shard from the cache, fetched if need be; it stays there for as long as the map does. Any thread.

        Without `wait` None where another process is fetching it. Raises NoRoomError, UsageError, StoppedError.
        """
        assert self._cache is not None
        if shard.name in self._damaged:  # found out once: not fetched again for each of its clips
            raise DamagedError(self._damaged[shard.name])
        try:
            return self._cache.open(
                shard, lambda file: shard_fetch.fetch(self._source, shard, file, self._caching.patience, stop), wait
            )
        except DamagedError as error:
            self._damaged[shard.name] = str(error)
            raise

    def release(self) -> None:
        """Gives up the copies that this process has open; they may leave the cache then. Local maps are kept."""
        if self._cache:
            self._maps.clear()

    def ahead(self, shards: Sequence[Shard], stretches: Iterable[Stretch]) -> Ahead | None:
        """Starts to fetch ahead of need; None where shards are mapped where they lie. To be closed."""
        if not self.cached:
            return None
        ahead = Ahead(self, shards, stretches)
        self._give_way = ahead.give_way
        return ahead

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_maps": collections.OrderedDict(), "_give_way": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _give_way=lambda: None)


class Ahead:
    """A thread that brings the shards of the stretch being read and of the next into the cache, and pins them there.

    No more than two stretches: that is what `require_room` counted on. It only warms the cache: what it cannot fetch
    is met, and said, by who reads it.
    """

    def __init__(self, store: Store, shards: Sequence[Shard], stretches: Iterable[Stretch]) -> None:
        self._store, self._shards, self._stretches = store, shards, _merged(stretches)
        self._held: collections.deque[tuple[Stretch, list[mmap.mmap]]] = collections.deque()
        self._changed, self._stop, self._step = threading.Condition(), threading.Event(), -1
        self._paused = False
        self._thread = threading.Thread(target=self._run, name="kws-ahead", daemon=True)
        self._thread.start()

    def at(self, step: int) -> None:
        """Tells it which step is being read. The reader's own pins of stretches that are over go too."""
        with self._changed:
            self._step, self._paused = step, False
            over = 0
            while self._held and self._held[0][0].end <= step:
                self._held.popleft()
                over += 1
            self._changed.notify_all()
        if over:
            self._store.release()

    def give_way(self) -> None:
        """Gives up all it has pinned, and fetches nothing until the next step: the reader needs the room."""
        with self._changed:
            self._paused = True
            for _, maps in self._held:
                maps.clear()

    def close(self) -> None:
        """Ends the thread; one in the middle of a silent connection ends by itself later."""
        with self._changed:
            self._stop.set()
            self._held.clear()
            self._changed.notify_all()
        self._store.release()
        self._thread.join(1.0)

    def _run(self) -> None:
        for stretch in self._stretches:
            with self._changed:
                self._changed.wait_for(lambda: self._stop.is_set() or len(self._held) < 2)
                if self._stop.is_set():
                    return
                if stretch.end <= self._step:
                    continue
                maps: list[mmap.mmap] = []
                self._held.append((stretch, maps))
            self._fetch(stretch, maps)

    def _fetch(self, stretch: Stretch, maps: list[mmap.mmap]) -> None:
        # A shard without bytes is none on the disk (kws/data/silence.py).
        todo = collections.deque(number for number in stretch.shards if self._shards[number].bytes)
        while todo and not self._stop.is_set() and self._step < stretch.end:
            if self._paused:
                self._stop.wait(0.02)
                continue
            number = todo.popleft()
            try:
                whole = self._store.pin(self._shards[number], wait=False, stop=self._stop)
            except NoRoomError:
                whole = None
            except (UsageError, OSError, shard_fetch.StoppedError):
                continue
            if whole is None:  # another process is at it, or has the room: what comes after first
                todo.append(number)
                self._stop.wait(0.02)
                continue
            with self._changed:
                if not (self._stop.is_set() or self._paused) and self._step < stretch.end:
                    maps.append(whole)
            del whole


def _merged(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
    """Neighbours with the same shards as one."""
    last: Stretch | None = None
    for stretch in stretches:
        if last is not None and set(last.shards) == set(stretch.shards):
            last = dataclasses.replace(last, end=stretch.end)
            continue
        if last is not None:
            yield last
        last = stretch
    if last is not None:
        yield last
