"""A plan has the promised counts, and is the same for every number of ranks and from every starting step."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import hypothesis
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kws import counter_rng
from kws.data import index
from kws.data.plan import Mode, Plan, PlanSettings, Slot, slots_of_rank
from kws.errors import UsageError

CLASS_OF = (0, 1, -1, 2)
"""Four words, of which the third is outside the task."""
SLOTS = (1, 4, 6, 8, 12)
MODES: tuple[Mode, ...] = ("natural", "balanced", "weighted", "power")
IMPLAUSIBLE = 5.0
"""Standard deviations above the mean of chi-square that no correct sampling reaches. The seeds are fixed."""


def split_of(shards: Sequence[Sequence[int]], num_words: int = 4) -> index.Split:
    """A split with nothing on disk: each shard is the words of its clips."""
    sizes = [len(shard) for shard in shards]
    starts = np.cumsum([0, *sizes])
    columns = {name: np.zeros(starts[-1], dtype) for name, dtype in index.COLUMNS.items()}
    columns["shard"][:] = np.repeat(np.arange(len(shards)), sizes)
    columns["word"][:] = [word for shard in shards for word in shard]
    entries = tuple(
        index.Shard(f"train/{i:06d}.tar", 0, size, int(starts[i]), "0" * 64) for i, size in enumerate(sizes)
    )
    cells = index.count_cells(columns["shard"], columns["word"], len(shards), num_words)
    return index.Split("train", entries, columns, cells)


def words_of(clips: Sequence[int] | np.ndarray[Any, Any], split: index.Split) -> list[int]:
    return split.columns["word"][np.asarray(clips, dtype=np.int64)].tolist()


def in_task(split: index.Split) -> list[int]:
    return [clip for clip, word in enumerate(split.columns["word"]) if CLASS_OF[word] >= 0]


def slots_in(plan: Plan) -> list[Slot]:
    return [slot for step in range(plan.steps) for slot in plan.step_slots(step)]


def clips_in(plan: Plan) -> list[int]:
    return np.concatenate([slot.clips for slot in slots_in(plan)]).tolist()


def same(one: Sequence[Slot], other: Sequence[Slot]) -> bool:
    return len(one) == len(other) and all(
        (a.step, a.slot) == (b.step, b.slot) and np.array_equal(a.draws, b.draws) and np.array_equal(a.clips, b.clips)
        for a, b in zip(one, other, strict=True)
    )


def span(counts: Sequence[int]) -> int:
    return max(counts) - min(counts)


def excess(counts: Sequence[int], expected: float) -> float:
    """Chi-square of counts that should all be `expected`, in standard deviations above its mean."""
    freedom = len(counts) - 1
    chi_square = sum((count - expected) ** 2 for count in counts) / expected
    return float((chi_square - freedom) / np.sqrt(2 * freedom))


RAGGED = (
    [[0], [1], [3], [0], [2]],  # one clip a shard
    [[0, 1, 3] * 100, [0], [], [1, 2]],  # a huge one, an empty one
    [[0] * 9, [1] * 9, [3, 2]],  # each class in one shard only
    [[0, 0, 1]],  # fewer shards than ranks
)
shards = st.one_of(
    st.sampled_from(RAGGED),
    st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=9).filter(
        lambda shards: any(CLASS_OF[word] >= 0 for shard in shards for word in shard)
    ),
)


def plan_settings(*modes: Mode) -> st.SearchStrategy[PlanSettings]:
    return st.builds(
        PlanSettings,
        mode=st.sampled_from(modes),
        slots=st.sampled_from(SLOTS),
        micro_batch=st.integers(1, 5),
        seed=st.integers(0, 3),
        epoch_clips=st.one_of(st.just(0), st.integers(1, 200)),
        window=st.one_of(st.integers(1, 40), st.just(4096)),
        alpha=st.sampled_from((0.0, 0.5, 1.0)),
    )


law = hypothesis.settings(deadline=None, max_examples=40)


@law
@given(shards, plan_settings("natural"))
def test_natural_reads_every_clip_once(layout: list[list[int]], settings: PlanSettings) -> None:
    split = split_of(layout)
    plan = Plan(split, CLASS_OF, dataclasses.replace(settings, epoch_clips=0), epoch=1)
    assert sorted(clips_in(plan)) == in_task(split)


@law
@given(shards, plan_settings("natural"))
def test_natural_of_another_length_is_even_to_one_clip(layout: list[list[int]], settings: PlanSettings) -> None:
    split = split_of(layout)
    counts = Counter(clips_in(Plan(split, CLASS_OF, settings, epoch=0)))
    assert counts.total() == (settings.epoch_clips or len(in_task(split)))
    assert span([counts[clip] for clip in in_task(split)]) <= 1


@law
@given(shards, plan_settings("balanced"))
def test_balanced_is_even_over_classes_and_inside_each(layout: list[list[int]], settings: PlanSettings) -> None:
    split = split_of(layout)
    counts = Counter(clips_in(Plan(split, CLASS_OF, settings, epoch=0)))
    of_class: dict[int, list[int]] = {}
    for clip, word in zip(in_task(split), words_of(in_task(split), split), strict=True):
        of_class.setdefault(word, []).append(counts[clip])
    assert span([sum(clips) for clips in of_class.values()]) <= 1
    assert all(span(clips) <= 1 for clips in of_class.values())


@law
@given(shards, plan_settings("balanced", "weighted", "power"))
def test_other_modes_fill_whole_steps(layout: list[list[int]], settings: PlanSettings) -> None:
    split = split_of(layout)
    plan = Plan(split, CLASS_OF, settings, epoch=0)
    batch = settings.slots * settings.micro_batch
    assert plan.steps == -(-(settings.epoch_clips or len(in_task(split))) // batch)
    assert {len(slot.clips) for slot in slots_in(plan)} == {settings.micro_batch}


@law
@given(shards, plan_settings(*MODES))
def test_words_outside_the_task_are_never_drawn(layout: list[list[int]], settings: PlanSettings) -> None:
    split = split_of(layout)
    assert 2 not in words_of(clips_in(Plan(split, CLASS_OF, settings, epoch=0)), split)


@law
@given(shards, plan_settings(*MODES))
def test_ranks_of_every_world_size_share_one_plan(layout: list[list[int]], settings: PlanSettings) -> None:
    split, whole = split_of(layout), slots_in(Plan(split_of(layout), CLASS_OF, settings, epoch=2))
    for world in (n for n in range(1, settings.slots + 1) if settings.slots % n == 0):
        ranks = [list(Plan(split, CLASS_OF, settings, epoch=2).rank_slots(rank, world)) for rank in range(world)]
        assert len({len(rank) for rank in ranks}) == 1, "every rank takes part in every step"
        together = sorted((slot for rank in ranks for slot in rank), key=lambda slot: (slot.step, slot.slot))
        assert same(together, whole)


@law
@given(shards, plan_settings(*MODES))
def test_draws_are_numbered_by_place_and_disjoint(layout: list[list[int]], settings: PlanSettings) -> None:
    plan = Plan(split_of(layout), CLASS_OF, settings, epoch=0)
    for slot in slots_in(plan):
        first = (slot.step * settings.slots + slot.slot) * settings.micro_batch
        assert slot.draws.tolist() == list(range(first, first + len(slot.clips)))
        assert len(slot.clips) <= settings.micro_batch
    assert sum(len(slot.clips) for slot in slots_in(plan)) == plan.clips


@law
@given(shards, plan_settings("natural"))
def test_slots_of_the_last_step_of_natural_differ_by_one_clip(layout: list[list[int]], settings: PlanSettings) -> None:
    plan = Plan(split_of(layout), CLASS_OF, settings, epoch=0)
    for step in range(plan.steps):
        lengths = [len(slot.clips) for slot in plan.step_slots(step)]
        assert sum(lengths) == plan.step_clips(step) > 0
        assert span(lengths) <= (step == plan.steps - 1)


@law
@given(shards, plan_settings(*MODES), st.integers(0, 30))
def test_starting_at_any_step_gives_the_tail_of_the_whole(
    layout: list[list[int]], settings: PlanSettings, start: int
) -> None:
    whole = list(Plan(split_of(layout), CLASS_OF, settings, epoch=3).rank_slots(0, 1))
    tail = list(Plan(split_of(layout), CLASS_OF, settings, epoch=3).rank_slots(0, 1, start))
    assert same(tail, whole[start * settings.slots :])


@law
@given(shards, plan_settings("balanced"))
@example([[0] * 300, [1, 3] * 2], PlanSettings("balanced", slots=4, micro_batch=5, seed=0))
def test_repeats_share_a_slot_only_where_a_window_has_too_few(layout: list[list[int]], settings: PlanSettings) -> None:
    plan = Plan(split_of(layout), CLASS_OF, settings, epoch=0)
    steps_a_window = max(1, settings.window // settings.micro_batch)
    for lane in range(settings.slots):
        for first in range(0, plan.steps, steps_a_window):
            steps = range(first, min(first + steps_a_window, plan.steps))
            slots = [Counter(plan.slot(step, lane).clips.tolist()) for step in steps]
            for clip, count in sum(slots, Counter()).items():
                assert max(slot[clip] for slot in slots) <= -(-count // len(slots))


@law
@given(shards, plan_settings(*MODES))
def test_a_shard_that_fits_in_a_lane_is_read_by_at_most_two(layout: list[list[int]], settings: PlanSettings) -> None:
    split = split_of(layout)
    plan = Plan(split, CLASS_OF, settings, epoch=0)
    draws, lanes = Counter[int](), dict[int, set[int]]()
    for slot in slots_in(plan):
        for shard in split.columns["shard"][slot.clips].tolist():
            draws[shard] += 1
            lanes.setdefault(shard, set()).add(slot.slot)
    shortest_lane = plan.clips // settings.slots
    assert all(len(lanes[shard]) <= 2 for shard in draws if draws[shard] <= shortest_lane)


@pytest.mark.parametrize("mode", MODES)
def test_epochs_and_seeds_differ_and_are_reproducible(mode: Mode) -> None:
    split = split_of([[0, 1, 3] * 20, [0] * 30, [1] * 10])
    plans = {
        (seed, epoch): clips_in(Plan(split, CLASS_OF, PlanSettings(mode, 4, 5, seed), epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(map(tuple, plans.values()))) == len(plans)
    assert all(
        clips_in(Plan(split, CLASS_OF, PlanSettings(mode, 4, 5, s), e)) == clips for (s, e), clips in plans.items()
    )


def test_slots_may_be_computed_in_any_order() -> None:
    plan = Plan(
        split_of([[0, 1, 3] * 50, [0] * 30]), CLASS_OF, PlanSettings("weighted", 4, 5, seed=0, window=10), epoch=0
    )
    forth = slots_in(plan)
    back = [plan.slot(slot.step, slot.slot) for slot in reversed(forth)][::-1]
    assert same(forth, back)


class RecordingColumn:
    """A column that records which rows are read."""

    def __init__(self, values: index.Column) -> None:
        self.values, self.read = values, set[int]()

    def __getitem__(self, rows: index.Column) -> index.Column:
        self.read.update(rows.tolist())
        return cast(index.Column, self.values[rows])


def test_a_rank_reads_only_the_columns_of_its_lanes_shards() -> None:
    split = split_of([[0, 1, 3] * 10] * 16)
    words = RecordingColumn(split.columns["word"])
    columns = cast(dict[str, index.Column], {**split.columns, "word": words})
    plan = Plan(dataclasses.replace(split, columns=columns), CLASS_OF, PlanSettings("balanced", 4, 5, seed=0), epoch=0)
    assert not words.read
    list(plan.rank_slots(1, 4))
    assert len({row // 30 for row in words.read}) <= 16 // 4 + 2


@pytest.mark.parametrize(("world", "fitting"), [(3, "1, 2, 4, 8"), (5, "1, 2, 4, 8"), (16, "1, 2, 4, 8")])
def test_ranks_that_do_not_divide_the_slots_are_refused_naming_those_that_do(world: int, fitting: str) -> None:
    with pytest.raises(UsageError, match=f"8 slots .*{fitting} .*{world}.*--set"):
        slots_of_rank(0, world, 8)


def test_a_split_without_clips_of_the_task_is_refused() -> None:
    with pytest.raises(UsageError, match=r"split train.*data\.task"):
        Plan(split_of([[2, 2], [2]]), CLASS_OF, PlanSettings("natural", 4, 5, seed=0), epoch=0)


def plans_over_seeds(split: index.Split, settings: PlanSettings, seeds: int) -> list[Plan]:
    return [Plan(split, CLASS_OF, dataclasses.replace(settings, seed=seed), epoch=0) for seed in range(seeds)]


def test_any_class_may_get_the_extra_draw_of_balanced() -> None:
    split = split_of([[0] * 20, [1] * 3, [3] * 7 + [0] * 5])
    winners = Counter[int]()
    for plan in plans_over_seeds(split, PlanSettings("balanced", 2, 8, seed=0, epoch_clips=16), 600):
        words = Counter(words_of(clips_in(plan), split))
        winners[max(words, key=words.__getitem__)] += 1
    assert set(winners) == {0, 1, 3}
    assert excess(list(winners.values()), 200) < IMPLAUSIBLE


def test_any_clip_may_get_the_extra_draw_of_balanced() -> None:
    split = split_of([[0], [0, 0, 0, 1], [0] * 4])  # ragged, so that a shard has no say in it
    extra = Counter[int]()
    for plan in plans_over_seeds(split, PlanSettings("balanced", 1, 22, seed=0, epoch_clips=22), 800):
        counts = Counter(clips_in(plan))
        extra.update(clip for clip in range(9) if split.columns["word"][clip] == 0 and counts[clip] == 2)
    assert extra.total() == 800 * 3  # 11 draws for 8 clips
    assert excess([extra[clip] for clip in range(9) if split.columns["word"][clip] == 0], 300) < IMPLAUSIBLE


def test_weighted_is_uniform_over_classes_and_over_the_clips_of_a_class() -> None:
    split = split_of([[0] * 40, [1] * 4, [3] * 12 + [0] * 4])
    drawn = Counter[int]()
    for plan in plans_over_seeds(split, PlanSettings("weighted", 2, 30, seed=0, epoch_clips=60), 200):
        drawn.update(clips_in(plan))
    words = Counter[int]()
    for clip, count in drawn.items():
        words[int(split.columns["word"][clip])] += count
    assert excess(list(words.values()), 200 * 60 / 3) < IMPLAUSIBLE
    assert excess([drawn[clip] for clip in range(60) if split.columns["word"][clip] == 0], 4000 / 44) < IMPLAUSIBLE


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.75), (0.5, 3**0.5 / (3**0.5 + 1)), (1.0, 0.5)])
def test_power_goes_from_uniform_clips_to_equal_classes(alpha: float, share: float) -> None:
    split = split_of([[0] * 20, [0] * 40 + [1] * 20])
    settings = PlanSettings("power", 2, 30, seed=0, epoch_clips=60, alpha=alpha)
    clips = [clip for plan in plans_over_seeds(split, settings, 100) for clip in clips_in(plan)]
    assert np.mean(np.array(words_of(clips, split)) == 0) == pytest.approx(share, abs=0.02)


def test_with_replacement_the_number_of_draws_of_a_clip_is_binomial() -> None:
    split = split_of([[0] * 10, [0] * 10])
    counts = []
    for plan in plans_over_seeds(split, PlanSettings("weighted", 1, 20, seed=0), 300):
        drawn = Counter(clips_in(plan))
        counts += [drawn[clip] for clip in range(20)]
    assert np.var(counts) == pytest.approx(0.95, rel=0.05)  # binomial: 20 draws, p = 1/20


def test_any_clip_may_come_first() -> None:
    split = split_of([[0, 1, 3, 0, 1, 3]] * 4)
    first = Counter(
        int(plan.slot(0, 0).clips[0]) for plan in plans_over_seeds(split, PlanSettings("natural", 2, 3, seed=0), 1200)
    )
    assert excess([first[clip] for clip in range(24)], 50) < IMPLAUSIBLE


def entropy(words: list[int]) -> float:
    shares = np.array(list(Counter(words).values())) / len(words)
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("sort", [False, True], ids=["shuffled", "sorted inside each shard"])
@pytest.mark.parametrize("window", [16, 4096])
def test_batches_are_as_mixed_as_those_of_an_ideal_shuffle(window: int, sort: bool) -> None:
    words = np.repeat(np.arange(12), np.arange(40, 640, 50))[counter_rng.permutation(3780, "packed")]
    shards = [np.sort(shard) if sort else shard for shard in np.array_split(words, 30)]
    plan = Plan(split_of(shards, 12), tuple(range(12)), PlanSettings("natural", 4, 16, seed=0, window=window), epoch=0)
    ideal, packed = words[counter_rng.permutation(len(words), "ideal")], np.concatenate(shards)
    steps = range(len(words) // 64)
    mixed = [entropy(packed[np.concatenate([s.clips for s in plan.step_slots(t)])].tolist()) for t in steps]
    assert np.mean(mixed) == pytest.approx(np.mean([entropy(ideal[t * 64 :][:64].tolist()) for t in steps]), rel=0.02)


def test_repeats_of_a_far_rarer_class_never_share_a_slot() -> None:
    split = split_of([[0] * 190 + [1] * 4 + [3] * 6] * 4)
    plan = Plan(split, CLASS_OF, PlanSettings("balanced", slots=4, micro_batch=8, seed=0), epoch=0)
    assert max(Counter(clips_in(plan)).values()) > 10
    assert all(len(np.unique(slot.clips)) == len(slot.clips) for slot in slots_in(plan))


def test_the_digest_identifies_a_plan() -> None:
    split = split_of([[0, 1, 3] * 30, [0, 0, 1] * 30, [3, 1, 0] * 30])
    base = PlanSettings("balanced", slots=4, micro_batch=4, window=64, epoch_clips=0, seed=0)
    one = Plan(split, CLASS_OF, base, epoch=0).digest
    assert Plan(split, CLASS_OF, base, epoch=0).digest == one
    others = [
        Plan(split, CLASS_OF, base, epoch=1),
        Plan(split, (0, 1, -1, 1), base, epoch=0),
        Plan(split, CLASS_OF, dataclasses.replace(base, seed=1), epoch=0),
        Plan(split, CLASS_OF, dataclasses.replace(base, mode="weighted"), epoch=0),
    ]
    assert len({one, *(plan.digest for plan in others)}) == 5


# --- needed shards --------------------------------------------------------------------------------------------


def sized_split(clips: Sequence[int]) -> index.Split:
    """A split of shards with these numbers of clips, of 100 bytes each, with three words in turn."""
    words = np.split(np.arange(sum(clips)) % 3, np.cumsum(clips)[:-1])
    split = split_of([part.tolist() for part in words], num_words=3)
    shards = tuple(dataclasses.replace(shard, bytes=100 * shard.clips) for shard in split.shards)
    return dataclasses.replace(split, shards=shards)


@law
@given(
    clips=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum),
    mode=st.sampled_from(["natural", "balanced", "weighted"]),
    slots=st.sampled_from([1, 4, 6]),
    window=st.integers(1, 40),
    seed=st.integers(0, 3),
)
def test_needed_shards_are_those_that_are_read(
    clips: list[int], mode: Mode, slots: int, window: int, seed: int
) -> None:
    split = sized_split(clips)
    plan = Plan(split, (0, 1, 2), PlanSettings(mode, slots, micro_batch=3, seed=seed, window=window), epoch=0)
    for world_size in (size for size in (1, 2, 6) if slots % size == 0):
        for rank in range(world_size):
            read: dict[int, set[int]] = {step: set() for step in range(plan.steps)}
            for slot in plan.rank_slots(rank, world_size):
                read[slot.step] |= set(split.columns["shard"][slot.clips].tolist())
            entries = list(plan.needed_shards(rank, world_size))
            ranges = [range(entry.first_step, entry.end_step) for entry in entries]
            assert [step for steps in ranges for step in steps] == list(range(plan.steps))
            for entry, steps in zip(entries, ranges, strict=True):
                assert set().union(*(read[step] for step in steps)) == set(entry.shards)
            later = list(plan.needed_shards(rank, world_size, plan.steps // 2))
            assert later == entries[-len(later) :]
            assert later[0].first_step <= plan.steps // 2 < later[0].end_step
        most = plan.bytes_at_once(range(world_size), world_size)
        assert max(sum(split.shards[n].bytes for n in shards) for shards in read.values()) <= most <= 100 * sum(clips)


def test_needed_shards_of_ten_thousand_are_found_without_drawing_a_clip() -> None:
    split = sized_split([20] * 10_000)
    words = RecordingColumn(split.columns["word"])
    columns = cast(dict[str, index.Column], {**split.columns, "word": words})
    settings = PlanSettings("natural", slots=8, micro_batch=10, seed=0)
    plan = Plan(dataclasses.replace(split, columns=columns), (0, 1, 2), settings, epoch=0)
    needed = list(plan.needed_shards(0, 1))
    assert {number for entry in needed for number in entry.shards} == set(range(10_000))
    assert not words.read
