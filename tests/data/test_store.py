"""Shards are memory maps, local or cached; a prefetcher has cached ones ready, within the size of the cache."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.data.index import Index
from kws.data.plan import NeededShards
from kws.data.store import CacheSettings, ShardStore, require_room
from kws.errors import UsageError
from tests.data.samples import bytes_of, natural_plan, shards_of
from tests.data.web import Web

FORK = multiprocessing.get_context("fork")


def cached_files(caching: CacheSettings) -> list[str]:
    return sorted(path.name for path in Path(caching.folder).rglob("*") if path.suffix in (".tar", ".part"))


def test_local_shards_are_mapped_where_they_lie_unless_a_cache_is_named(
    tones: Index, caching: CacheSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "default"))
    shard = shards_of(tones)[0]
    direct, copied = ShardStore(tones.root), ShardStore(tones.root, "", caching)
    assert direct.map_shard(shard)[:] == copied.map_shard(shard)[:] == bytes_of(tones, shard)
    assert (direct.cached, copied.cached) == (False, True)
    assert not (tmp_path / "default").exists()
    assert cached_files(caching) == [f"{shard.sha256}.tar"]


def test_remote_shards_go_to_the_default_folder(
    tones: Index, web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "default"))
    ShardStore(tones.root, web.url).map_shard(shards_of(tones)[0])
    assert len(list((tmp_path / "default").rglob("*.tar"))) == 1


def test_a_store_keeps_few_maps_open(tones: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kws.data.store.MAX_OPEN_SHARDS", 2)
    shards, store = tones.split("train").shards, ShardStore(tones.root)
    assert len(shards) > 3
    held = memoryview(store.map_shard(shards[0]))
    for shard in (*shards, *shards):
        assert store.map_shard(shard)[:] == (tones.root / shard.name).read_bytes()
    assert held[:] == (tones.root / shards[0].name).read_bytes()


def test_processes_that_share_a_cache_fetch_each_shard_once(tones: Index, web: Web, caching: CacheSettings) -> None:
    def rank(number: int) -> None:
        store = ShardStore(tones.root, web.url, caching)
        for shard in shards_of(tones):
            assert store.map_shard(shard)[:] == bytes_of(tones, shard)

    processes = [FORK.Process(target=rank, args=(number,)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert web.served == {shard.name: 1 for shard in shards_of(tones)}


def test_a_cache_that_is_too_small_is_refused_with_the_size_needed(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    plan, total = natural_plan(tones), sum(shard.bytes for shard in shards_of(tones))
    needed = plan.bytes_at_once(range(2), 2)
    assert 0 < needed <= total
    small = dataclasses.replace(caching, gigabytes=needed / 1e9 / 2)
    with pytest.raises(UsageError, match=r"^data.cache_gb: 0.00\d+.* --set data.cache_gb=0.01"):
        require_room(tones.root, web.url, small, needed)
    require_room(tones.root, web.url, caching, needed)
    require_room(tones.root, "", CacheSettings(gigabytes=1e-9), needed)  # local shards are not copied
    with pytest.raises(UsageError, match=r"train/.*--set data\.cache_gb="):
        ShardStore(tones.root, web.url, dataclasses.replace(caching, gigabytes=1e-6)).map_shard(shards_of(tones)[0])


# --- prefetching ----------------------------------------------------------------------------------------------


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("has_room", [True, False])
def test_two_entries_are_prefetched_and_no_more(tones: Index, web: Web, caching: CacheSettings, has_room: bool) -> None:
    shards = shards_of(tones)
    if not has_room:
        caching = dataclasses.replace(caching, gigabytes=sum(shard.bytes for shard in shards[:2]) / 1e9)
    needed = [NeededShards(step, step + 1, (step,)) for step in range(len(shards))]
    store = ShardStore(tones.root, web.url, caching)
    prefetcher = store.prefetch(shards, needed)
    assert prefetcher
    for step in range(len(shards)):
        prefetcher.advance(step)
        wanted = {shard.name for shard in shards[: step + 2]}
        assert eventually(lambda wanted=wanted: set(web.served) >= wanted)
        assert set(web.served) == wanted
        assert store.map_shard(shards[step])[:] == bytes_of(tones, shards[step])
    prefetcher.close()
    assert set(web.served.values()) == {1}


def test_neighbours_that_need_the_same_shards_count_as_one_entry(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    shards = shards_of(tones)
    needed = [NeededShards(step, step + 1, numbers) for step, numbers in enumerate([(0, 1), (1, 0), (2,), (3,)])]
    prefetcher = ShardStore(tones.root, web.url, caching).prefetch(shards, needed)
    assert prefetcher
    prefetcher.advance(0)
    wanted = {shard.name for shard in shards[:3]}
    assert eventually(lambda: set(web.served) >= wanted)
    assert set(web.served) == wanted
    prefetcher.close()


def test_local_shards_are_not_prefetched(tones: Index) -> None:
    assert ShardStore(tones.root).prefetch(shards_of(tones), iter(())) is None


def test_a_fault_of_prefetching_is_raised_only_by_the_reader(tones: Index, web: Web, caching: CacheSettings) -> None:
    shards = shards_of(tones)
    web.faults[shards[0].name] = ["404"]
    store = ShardStore(tones.root, web.url, caching)
    prefetcher = store.prefetch(shards, [NeededShards(0, 9, (0, 1))])
    assert prefetcher
    assert eventually(lambda: web.served[shards[1].name] > 0)
    assert store.map_shard(shards[0])[:] == bytes_of(tones, shards[0])
    prefetcher.close()
