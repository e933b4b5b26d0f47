"""What the plan says ahead is what is read, and the thread brings it before it is asked for, within its bound."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.data.index import Index, Shard, Split, count_cells
from kws.data.plan import Mode, NeededShards, Plan, PlanSettings, slots_of_rank
from kws.data.store import CacheSettings, ShardStore, _merge_equal
from tests.data.web import serve


def split_of(clips: list[int]) -> Split:
    """A split of shards with these numbers of clips, of 100 bytes each, the words taking turns."""
    starts = [0, *np.cumsum(clips).tolist()]
    shards = tuple(Shard(f"{n}", 100 * count, count, starts[n], "") for n, count in enumerate(clips))
    shard = np.repeat(np.arange(len(clips)), clips)
    word = np.arange(len(shard)) % 3
    return Split("train", shards, {"shard": shard, "word": word}, count_cells(shard, word, len(clips), 3))


@settings(max_examples=60, deadline=None)
@given(
    clips=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum),
    mode=st.sampled_from(["natural", "balanced", "weighted"]),
    slots=st.sampled_from([1, 4, 6]),
    window=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_the_shards_ahead_are_those_that_are_read(
    clips: list[int], mode: Mode, slots: int, window: int, seed: int
) -> None:
    split = split_of(clips)
    plan = Plan(split, (0, 1, 2), PlanSettings(mode, slots, micro_batch=3, seed=seed, window=window), epoch=0)
    for world_size in (size for size in (1, 2, 6) if slots % size == 0):
        for rank in range(world_size):
            read: dict[int, set[int]] = {step: set() for step in range(plan.steps)}
            for slot in plan.rank_slots(rank, world_size):
                read[slot.step] |= set(split.columns["shard"][slot.clips].tolist())
            ahead = list(plan.needed_shards(rank, world_size))
            assert [step for needed in ahead for step in range(needed.first_step, needed.end_step)] == list(
                range(plan.steps)
            )
            for needed in ahead:
                assert set().union(*(read[step] for step in range(needed.first_step, needed.end_step))) == set(
                    needed.shards
                )
            later = list(plan.needed_shards(rank, world_size, plan.steps // 2))
            assert later == ahead[-len(later) :]
            assert later[0].first_step <= plan.steps // 2 < later[0].end_step
        most = plan.bytes_at_once(range(world_size), world_size)
        assert max(sum(split.shards[n].bytes for n in shards) for shards in read.values()) <= most <= 100 * sum(clips)
    assert list(slots_of_rank(0, 1, slots)) == list(range(slots))


def test_ten_thousand_shards_are_cheap() -> None:
    plan = Plan(split_of([20] * 10_000), (0, 1, 2), PlanSettings("natural", slots=8, micro_batch=10, seed=0), epoch=0)
    needed = list(plan.needed_shards(0, 1))
    assert {number for needed in needed for number in needed.shards} == set(range(10_000))
    assert plan._shard_draws.cache_info().misses == 0  # no clip was drawn for it


def test_neighbours_with_the_same_shards_are_one_stretch() -> None:
    apart = [NeededShards(0, 1, (1, 2)), NeededShards(1, 2, (2, 1)), NeededShards(2, 3, (3,)), NeededShards(3, 5, (3,))]
    assert list(_merge_equal(apart)) == [NeededShards(0, 2, (1, 2)), NeededShards(2, 5, (3,))]
    assert list(_merge_equal([])) == []


def eventually(condition: object) -> bool:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("roomy", [True, False])
def test_two_stretches_are_fetched_without_being_asked_for_and_no_more(
    tones: Index, tmp_path: Path, roomy: bool
) -> None:
    shards = tones.split("train").shards
    room = 100.0 if roomy else sum(shard.bytes for shard in shards[:2])
    caching = CacheSettings(str(tmp_path), 1.0 if roomy else room / 1e9)
    needed = [NeededShards(step, step + 1, (step,)) for step in range(len(shards))]
    with serve(tones.root) as web:
        store = ShardStore(tones.root, web.url, caching)
        ahead = store.prefetch(shards, needed)
        assert ahead
        for step in range(len(shards)):
            ahead.advance(step)
            wanted = {shard.name for shard in shards[: step + 2]}
            assert eventually(lambda wanted=wanted: set(web.served) >= wanted)
            assert set(web.served) == wanted
            assert store.map_shard(shards[step])[:] == (tones.root / shards[step].name).read_bytes()
        ahead.close()
    assert set(web.served.values()) == {1}


def test_nothing_is_fetched_ahead_of_local_shards(tones: Index) -> None:
    assert ShardStore(tones.root).prefetch(tones.split("train").shards, iter(())) is None


def test_a_fault_met_ahead_is_left_to_who_reads(tones: Index, tmp_path: Path) -> None:
    shards = tones.split("train").shards
    with serve(tones.root) as web:
        web.faults[shards[0].name] = ["404"]
        store = ShardStore(tones.root, web.url, dataclasses.replace(CacheSettings(), folder=str(tmp_path)))
        ahead = store.prefetch(shards, [NeededShards(0, 9, (0, 1))])
        assert ahead
        assert eventually(lambda: web.served[shards[1].name])
        assert store.map_shard(shards[0])[:] == (tones.root / shards[0].name).read_bytes()
        ahead.close()
