"""Shards on this node's disk: a bounded folder that all processes of the node share, and that no crash can spoil.

    FOLDER/shards/SHA256.part    being fetched, at its full size; its writer holds an exclusive flock on it
    FOLDER/shards/SHA256.tar     whole and checked; who has it mapped holds a shared flock on it: a pin
    FOLDER/shards/lock           held for the moment in which room is made

The locks are the kernel's and end with the process that holds them, however it ends: a part that nobody locks is a
dead process's, and is removed. Named by content, so two runs with the same shards share them.
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
from kws.errors import UsageError

GB = 1_000_000_000


class NoRoomError(UsageError):
    """All that the cache holds is in use, and another shard does not fit beside it."""


class Cache:
    """A folder of at most `max_bytes` of shards. Raises UsageError where it cannot be made or is another user's."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder / "shards", max_bytes
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self.folder.stat().st_uid
            if owner == os.geteuid():
                self.folder.chmod(0o700)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be made ({error.strerror}); use another --set data.cache_dir=..."
            ) from error
        if os.geteuid() not in (0, owner):
            raise UsageError(f"{self.folder}: belongs to another user; use another --set data.cache_dir=...")

    def open(self, shard: Shard, download: Callable[[BinaryIO], None], wait: bool = True) -> mmap.mmap | None:
        """The shard, read-only, pinned for as long as the map (or a view of it) is there.

        `download` is asked to write it to a file where it is not there yet, in one process at a time; without `wait`
        None comes back while another process is at it. Raises NoRoomError, and what `download` raises.
        """
        while True:
            whole = self._pin(shard)
            if whole is not None:
                return whole
            if not self._bring(shard, download, wait):
                return None

    def path(self, shard: Shard) -> Path:
        """Where the shard lies once it is there."""
        return self.folder / f"{shard.sha256}.tar"

    def _pin(self, shard: Shard) -> mmap.mmap | None:
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
            if status.st_size != shard.bytes:  # the disk's fault or somebody's hand: never ours
                path.unlink(missing_ok=True)
                return None
            now = time.time_ns()  # the kernel's own stamps are coarse: shards are given up in this order
            os.utime(file.fileno(), ns=(now, now))
            # The map keeps a duplicate of the descriptor, and so the lock.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _bring(self, shard: Shard, download: Callable[[BinaryIO], None], wait: bool) -> bool:
        """Fetches the shard, or waits for who does; False where it would have to wait and shall not."""
        part = self.path(shard).with_suffix(".part")
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            if not _lock(file):
                if wait:
                    # Shared: once renamed this is the shard itself, which others pin for as long as they like.
                    fcntl.flock(file, fcntl.LOCK_SH)
                    fcntl.flock(file, fcntl.LOCK_UN)
                return wait
            if not _is_at(file, part):  # renamed or removed between opening and locking
                return True
            try:
                if not self.path(shard).exists():
                    self._fill(shard, file, download)
                    with self._alone():  # who lists the folder to make room shall not miss it between its names
                        part.replace(self.path(shard))
                    _sync_folder(self.folder)
            finally:
                if _is_at(file, part):
                    part.unlink()
                # A child forked meanwhile has the lock too; what it keeps is now a pin and stops nobody.
                fcntl.flock(file, fcntl.LOCK_SH)
        return True

    def _fill(self, shard: Shard, file: BinaryIO, download: Callable[[BinaryIO], None]) -> None:
        file.truncate(0)  # what a dead process left
        with self._alone():
            self._make_room(shard)
            file.truncate(shard.bytes)  # takes the room at once: others count it
        download(file)
        file.flush()
        os.fsync(file.fileno())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)  # a child forked meanwhile would keep it

    def _make_room(self, shard: Shard) -> None:
        """Removes dead parts, then the shards longest unused, until `shard` fits. Pinned ones stay."""
        entries = sorted(self._entries())
        excess = sum(size for *_, size, _ in entries) + shard.bytes - self.max_bytes
        for whole, _, size, path in entries:
            if (excess > 0 or not whole) and _remove(path):
                excess -= size
        if excess > 0:
            raise NoRoomError(
                f"{self.folder}: no room for {shard.name} ({shard.bytes / GB:.3f} GB): of {self.max_bytes / GB:g} GB "
                f"all is in use but {max(0, shard.bytes - excess) / GB:.3f} GB; use a larger --set data.cache_gb=..."
            )

    def _entries(self) -> Iterator[tuple[bool, int, int, Path]]:
        """(whole, last used in ns, bytes, path) of all that takes room."""
        for path in self.folder.iterdir():
            if path.suffix in (".tar", ".part"):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    yield path.suffix == ".tar", status.st_mtime_ns, status.st_size, path


def _lock(file: BinaryIO) -> bool:
    """An exclusive lock; False where another has one of any kind."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> bool:
    """Whether the file is gone: not if anybody has it pinned or is writing it."""
    try:
        with path.open("r+b") as file:
            if not _lock(file):
                return False
            try:
                path.unlink()
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
    except FileNotFoundError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """So that a rename survives a power failure."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def default_folder() -> Path:
    """This user's: on the job's own disk where TMPDIR names one, else the usual place for caches."""
    if os.environ.get("TMPDIR"):
        return Path(os.environ["TMPDIR"]) / f"kws-{os.geteuid()}"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kws"
