"""The cache is bounded and shared, and holds complete shards only, whichever process is killed at any moment."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import BinaryIO

import pytest

from kws.data.cache import CacheFullError, ShardCache, default_cache_folder
from kws.data.index import Shard
from kws.errors import UsageError

SIZE = 1000
FORK = multiprocessing.get_context("fork")


def content(number: int) -> bytes:
    return bytes([number % 256]) * SIZE


def shard(number: int) -> Shard:
    data = content(number)
    return Shard(f"train/{number:06d}.tar", len(data), 1, number, hashlib.sha256(data).hexdigest())


def writes(number: int) -> Callable[[BinaryIO], None]:
    return lambda file: file.write(content(number)) and None


def must_not_download(_: BinaryIO) -> None:
    raise AssertionError("the shard is in the cache already")


def opened(cache: ShardCache, number: int, download: Callable[[BinaryIO], None] | None = None) -> mmap.mmap:
    whole = cache.open(shard(number), download or writes(number))
    assert whole is not None
    assert whole[:] == content(number)
    return whole


def there(cache: ShardCache) -> set[int]:
    return {number for number in range(100) if cache.path(shard(number)).exists()}


def sizes(cache: ShardCache) -> int:
    with (cache.folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # no shard is renamed meanwhile
        return sum(path.stat().st_size for path in cache.folder.iterdir())


def parts(cache: ShardCache) -> list[Path]:
    return list(cache.folder.glob("*.part"))


def test_a_shard_is_fetched_once_and_only_its_user_can_read_it(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "new" / "cache", 10 * SIZE)
    opened(cache, 1)
    opened(cache, 1, must_not_download)
    opened(ShardCache(tmp_path / "new" / "cache", 10 * SIZE), 1, must_not_download)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.path(shard(1)).stat().st_mode) == 0o600
    assert parts(cache) == []


def test_the_least_recently_used_shard_is_removed_first_and_the_bound_holds(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    for number in (1, 2, 3):
        opened(cache, number)
    opened(cache, 1, must_not_download)
    for number, left in ((4, {1, 3, 4}), (5, {1, 4, 5}), (6, {4, 5, 6})):
        opened(cache, number)
        assert there(cache) == left
        assert sizes(cache) <= 3 * SIZE


def test_pinned_shards_are_never_removed(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 3 * SIZE)
    pinned = [opened(cache, 1), memoryview(opened(cache, 2))]  # a view of the map is a pin too
    for number in range(3, 20):
        opened(cache, number)
        assert {1, 2, number} == there(cache)
        assert sizes(cache) <= 3 * SIZE
    assert [bytes(pin[:]) for pin in pinned] == [content(1), content(2)]
    last = opened(cache, 20)
    with pytest.raises(CacheFullError, match=r"train/000021.tar .*--set data.cache_gb="):
        cache.open(shard(21), writes(21))
    del pinned, last
    opened(cache, 21)


def test_a_shard_larger_than_the_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheFullError):
        ShardCache(tmp_path, SIZE - 1).open(shard(1), must_not_download)
    assert parts(ShardCache(tmp_path, SIZE)) == []


def test_the_pins_of_another_process_end_with_it(tmp_path: Path) -> None:
    cache, ready = ShardCache(tmp_path, 2 * SIZE), FORK.Event()

    def hold() -> None:
        kept = opened(cache, 1)
        ready.set()
        threading.Event().wait(60)
        del kept

    process = FORK.Process(target=hold, daemon=True)
    process.start()
    assert ready.wait(30)
    opened(cache, 2)
    opened(cache, 3)
    assert there(cache) == {1, 3}
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    opened(cache, 4)
    assert there(cache) == {3, 4}


def half_and_wait(number: int, begun: Event) -> Callable[[BinaryIO], None]:
    def download(file: BinaryIO) -> None:
        file.write(content(number)[: SIZE // 2])
        file.flush()
        begun.set()
        threading.Event().wait(60)

    return download


def start_downloader(cache: ShardCache, number: int) -> multiprocessing.context.ForkProcess:
    begun = FORK.Event()
    process = FORK.Process(target=lambda: cache.open(shard(number), half_and_wait(number, begun)), daemon=True)
    process.start()
    assert begun.wait(30)
    return process


def kill(process: multiprocessing.context.ForkProcess) -> None:
    process.kill()
    process.join()


def test_a_killed_download_is_repeated(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE)
    kill(start_downloader(cache, 1))
    assert there(cache) == set()
    assert len(parts(cache)) == 1
    opened(cache, 1)
    assert parts(cache) == []


def test_the_part_of_a_killed_download_is_removed_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 2 * SIZE)
    dead, alive = start_downloader(cache, 1), start_downloader(cache, 2)
    with pytest.raises(CacheFullError):  # both have taken their room
        cache.open(shard(3), writes(3))
    kill(dead)
    opened(cache, 3)
    assert [path.stem for path in parts(cache)] == [shard(2).sha256]
    kill(alive)


def test_a_process_that_waits_for_a_killed_download_repeats_it(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE)
    process = start_downloader(cache, 1)
    assert cache.open(shard(1), must_not_download, wait=False) is None
    found: list[bytes] = []
    waiter = threading.Thread(target=lambda: found.append(opened(cache, 1)[:]))
    waiter.start()
    kill(process)
    waiter.join(30)
    assert found == [content(1)]


def test_many_processes_at_once_fetch_each_shard_once(tmp_path: Path) -> None:
    cache, log = ShardCache(tmp_path / "cache", 100 * SIZE), tmp_path / "log"

    def reader(first: int) -> None:
        for number in range(20):
            number = (number + first) % 20

            def download(file: BinaryIO, number: int = number) -> None:
                with log.open("a") as lines:
                    lines.write(f"{number}\n")
                file.write(content(number))

            opened(cache, number, download)

    processes = [FORK.Process(target=reader, args=(first,)) for first in (0, 0, 10, 10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(map(int, log.read_text().split())) == list(range(20))


def test_processes_with_a_small_cache_read_correctly_and_keep_the_bound(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 5 * SIZE)

    def reader(step: int) -> None:
        for turn in range(60):
            opened(cache, turn * step % 17)
            assert sizes(cache) <= 5 * SIZE

    processes = [FORK.Process(target=reader, args=(step,)) for step in (1, 3, 5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE)

    def fails(file: BinaryIO) -> None:
        file.write(b"half")
        raise UsageError("gone")

    with pytest.raises(UsageError, match="gone"):
        cache.open(shard(1), fails)
    assert there(cache) == set()
    assert parts(cache) == []


def test_a_child_forked_during_a_download_blocks_nobody(tmp_path: Path) -> None:
    cache, done = ShardCache(tmp_path, SIZE), FORK.Event()
    children = []

    def download(file: BinaryIO) -> None:
        children.append(FORK.Process(target=done.wait, args=(60,)))
        children[0].start()
        file.write(content(1))

    opened(cache, 1, download)
    opened(cache, 1, must_not_download)
    with pytest.raises(CacheFullError):  # the child has the file open, as a pin
        cache.open(shard(2), writes(2))
    done.set()
    children[0].join(30)
    opened(cache, 2)


def test_a_copy_of_another_size_is_fetched_again(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 10 * SIZE)
    opened(cache, 1)
    cache.path(shard(1)).write_bytes(b"cut")
    opened(cache, 1)


def test_a_folder_that_cannot_be_created_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"file/shards: .*--set data.cache_dir="):
        ShardCache(tmp_path / "file", SIZE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ShardCache(tmp_path, SIZE).folder
    os.chown(folder, 12345, 12345)
    ShardCache(tmp_path, SIZE)  # root may
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(UsageError, match=r"--set data\.cache_dir="):
        ShardCache(tmp_path, SIZE)


def test_the_default_folder_is_the_jobs_own_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/scratch/job1")
    assert default_cache_folder() == Path(f"/scratch/job1/kws-{os.geteuid()}")
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/me/cache")
    assert default_cache_folder() == Path("/home/me/cache/kws")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache_folder() == Path("/home/me/.cache/kws")
