"""The shard cache: a folder of bounded size on the node's disk, shared by all processes of the node.

    FOLDER/shards/SHA256.part    being fetched, at its full size; its writer holds an exclusive flock
    FOLDER/shards/SHA256.tar     complete and checked; each process that has it mapped holds a shared flock (pin)
    FOLDER/shards/lock           held while shards are removed to make room

The kernel releases a flock when its process ends, even by SIGKILL. A part that nobody has locked was left by a killed
process and is removed. Files are named by content, so runs with the same shards share them.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kws.data.index import Shard
from kws.errors import UsageError, cannot_write
from kws.files import fsync

GB = 1_000_000_000


class CacheFullError(UsageError):
    """Another shard does not fit into the cache, and all shards in it are in use."""


class ShardCache:
    """A cache of at most `max_bytes` in `folder`/shards.

    Raises UsageError where the folder cannot be created or belongs to another user.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder / "shards", max_bytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.folder.stat().st_uid
            if owner == os.geteuid():
                self.folder.chmod(0o700)
        except OSError as error:
            raise UsageError(cannot_write(self.folder, error, "use another --set data.cache_dir=...")) from error
        if os.geteuid() not in (0, owner):
            raise UsageError(f"{self.folder}: belongs to another user; use another --set data.cache_dir=...")

    def open(self, shard: Shard, download: Callable[[BinaryIO], None], wait: bool = True) -> mmap.mmap | None:
        """Maps a shard read-only and pins it in the cache until the map and all views of it are freed.

        A shard that is not in the cache is written by `download`, in one process at a time. Without `wait`, returns
        None while another process is fetching the shard. Raises CacheFullError, and what `download` raises.
        """
        while True:
            pinned = self._pin(shard)
            if pinned is not None:
                return pinned
            if not self._fetch_or_wait(shard, download, wait):
                return None

    def path(self, shard: Shard) -> Path:
        """Returns the path of the shard's file, whether it exists or not."""
        return self.folder / f"{shard.sha256}.tar"

    def _pin(self, shard: Shard) -> mmap.mmap | None:
        """Maps the shard under a shared lock; None where the cache does not have it."""
        path = self.path(shard)
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        with file:
            fcntl.flock(file, fcntl.LOCK_SH)
            status = os.fstat(file.fileno())
            if status.st_nlink == 0:  # removed between opening and locking
                return None
            if status.st_size != shard.bytes:  # changed by a disk fault or by hand: kws only renames complete files
                path.unlink(missing_ok=True)
                return None
            now = time.time_ns()  # the last use, by which shards are removed; the kernel's own time stamps are coarse
            os.utime(file.fileno(), ns=(now, now))
            # The map keeps a duplicate of the file descriptor and with it the lock.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _fetch_or_wait(self, shard: Shard, download: Callable[[BinaryIO], None], wait: bool) -> bool:
        """Fetches the shard, or waits while another process does. False where that would be waiting without `wait`."""
        part = self.path(shard).with_suffix(".part")
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            if not _try_lock(file):
                if wait:
                    # A shared lock: after the rename this file is the shard, which others pin for a long time.
                    fcntl.flock(file, fcntl.LOCK_SH)
                    fcntl.flock(file, fcntl.LOCK_UN)
                return wait
            if not _is_at(file, part):  # renamed or removed between opening and locking
                return True
            try:
                if not self.path(shard).exists():
                    self._fill(shard, file, download)
                    with self._exclusive():  # so that no process lists the folder between the two names
                        part.replace(self.path(shard))
                    fsync(self.folder)
            finally:
                if _is_at(file, part):
                    part.unlink()
                # A child forked meanwhile shares the lock; as a shared lock (a pin) it blocks nobody.
                fcntl.flock(file, fcntl.LOCK_SH)
        return True

    def _fill(self, shard: Shard, file: BinaryIO, download: Callable[[BinaryIO], None]) -> None:
        """Makes room for the shard and fetches it into `file`."""
        file.truncate(0)  # removes what a killed process left
        with self._exclusive():
            self._make_room(shard)
            file.truncate(shard.bytes)  # reserves the space: the other processes count this size
        download(file)
        file.flush()
        os.fsync(file.fileno())

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Holds the lock of the folder."""
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # explicitly: a child forked meanwhile would keep the lock

    def _make_room(self, shard: Shard) -> None:
        """Removes parts of killed processes, then the least recently used unpinned shards, until `shard` fits."""
        entries = sorted(self._entries())
        excess = sum(size for *_, size, _ in entries) + shard.bytes - self.max_bytes
        for complete, _, size, path in entries:
            if (excess > 0 or not complete) and _remove(path):
                excess -= size
        if excess > 0:
            raise CacheFullError(
                f"{self.folder}: no room for {shard.name} ({shard.bytes / GB:.3f} GB): of {self.max_bytes / GB:g} GB "
                f"only {max(0, shard.bytes - excess) / GB:.3f} GB are not in use; use a larger --set data.cache_gb=..."
            )

    def _entries(self) -> Iterator[tuple[bool, int, int, Path]]:
        """Yields (complete, last use in ns, bytes, path) of each shard and part."""
        for path in self.folder.iterdir():
            if path.suffix in (".tar", ".part"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    yield path.suffix == ".tar", status.st_mtime_ns, status.st_size, path


def _try_lock(file: BinaryIO) -> bool:
    """Takes an exclusive lock; False where another process has a lock of either kind."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether `path` is the name of this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> bool:
    """Removes a file unless a process has it pinned or is writing it; returns whether it is removed."""
    try:
        with path.open("r+b") as file:
            if not _try_lock(file):
                return False
            try:
                path.unlink()
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        pass
    return True


def default_cache_folder() -> Path:
    """Returns this user's cache folder: in TMPDIR if set (on clusters the local disk), else in the XDG cache folder."""
    if os.environ.get("TMPDIR"):
        return Path(os.environ["TMPDIR"]) / f"kws-{os.geteuid()}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kws"
