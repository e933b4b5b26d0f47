"""Batches hold what was packed, in the plan's order, for any number of threads that read ahead."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.plan import Plan, PlanSettings, Slot
from kws.data.reader import Reader, read_noise
from kws.data.shard_fetch import DamagedError
from kws.data.store import CacheSettings
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.errors import UsageError
from tests.conftest import require
from tests.data.samples import LABELS, bytes_of, change_file, flip_bit, natural_plan, one_slot, same, shards_of
from tests.data.web import Web


def plan_of(corpus: Index, settings: PlanSettings) -> Plan:
    return Plan(corpus.split("train"), LABELS, settings, epoch=0)


def batches(corpus: Index, plan: Plan, workers: int, samples: int = 16000) -> list[Batch]:
    reader = SlotReader(Reader(corpus, "train"), LABELS, Excerpt(samples, "start"), workers=workers)
    return list(stream_batches(lambda: plan.rank_slots(0, 1), reader))


@pytest.mark.parametrize(
    "settings",
    [
        PlanSettings("natural", slots=4, micro_batch=7, seed=0),
        PlanSettings("natural", slots=8, micro_batch=3, seed=0, epoch_clips=26),  # six of the last slots are empty
        PlanSettings("balanced", slots=2, micro_batch=16, seed=1),
    ],
    ids=["natural", "empty slots", "balanced"],
)
def test_batches_are_the_same_for_any_number_of_workers(tones: Index, settings: PlanSettings) -> None:
    plan = plan_of(tones, settings)
    alone = batches(tones, plan, workers=0)
    assert [(batch.step, batch.slot) for batch in alone] == [
        (t, j) for t in range(plan.steps) for j in range(settings.slots)
    ]
    for workers in (1, 3):
        spread = batches(tones, plan, workers)
        assert len(spread) == len(alone)
        assert all(same(*pair) for pair in zip(spread, alone, strict=True))


@pytest.mark.gpu
def test_batches_for_a_gpu_are_the_same_in_pinned_memory(tones: Index) -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no GPU")
    plan = plan_of(tones, PlanSettings("natural", slots=4, micro_batch=7, seed=0))
    wanted = batches(tones, plan, workers=0)
    for workers in (0, 2):
        reader = SlotReader(
            Reader(tones, "train"), LABELS, Excerpt(16000, "start"), workers=workers, device=torch.device("cuda")
        )
        for number, batch in enumerate(stream_batches(lambda: plan.rank_slots(0, 1), reader)):
            assert batch.wave.is_pinned()
            assert batch.labels.is_pinned()
            assert same(batch._replace(wave=batch.wave.cuda(non_blocking=True).cpu()), wanted[number])
        reader.close()


def test_a_slot_without_clips_gives_an_empty_batch(tones: Index) -> None:
    plan = plan_of(tones, PlanSettings("natural", slots=8, micro_batch=3, seed=0, epoch_clips=26))
    last = batches(tones, plan, workers=1)[-1]
    assert last.wave.shape == (0, 16000)
    assert [tensor.shape for tensor in last[2:] if tensor is not last.wave] == [(0,)] * 4


def test_a_batch_carries_its_draws_clips_and_labels(tones: Index) -> None:
    plan = plan_of(tones, PlanSettings("balanced", slots=2, micro_batch=16, seed=1))
    words = tones.split("train").columns["word"]
    for batch, slot in zip(batches(tones, plan, workers=0), plan.rank_slots(0, 1), strict=True):
        assert np.array_equal(batch.draws, slot.draws)
        assert np.array_equal(batch.clips, slot.clips)
        assert batch.labels.tolist() == [LABELS[words[clip]] for clip in slot.clips]
        assert {batch.wave.dtype, batch.labels.dtype, batch.lengths.dtype} == {torch.int16, torch.int64}


def reader_of(corpus: Index, verify: str, workers: int) -> SlotReader:
    return SlotReader(Reader(corpus, "train", verify), LABELS, Excerpt(16000), workers=workers)


def one_by_one(reader: SlotReader) -> list[Batch]:
    slots = [Slot(clip, 0, np.array([clip]), np.array([clip])) for clip in range(12)]
    return list(stream_batches(lambda: slots, reader))


@pytest.mark.parametrize(
    ("verify", "workers"),
    [("first", 0), ("first", 2), ("always", 0), pytest.param("always", 2, marks=pytest.mark.slow)],
)
def test_a_damaged_clip_ends_the_stream_naming_shard_and_clip(copy: Index, verify: str, workers: int) -> None:
    shard = shards_of(copy)[0].name
    name = Reader(copy, "train").name(7)
    flip_bit(copy, 7)
    with pytest.raises(DamagedError, match=rf"^{copy.root / shard}: clip 7 \({name}\)"):
        one_by_one(reader_of(copy, verify, workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_never_compares_no_checksum(copy: Index, workers: int) -> None:
    flip_bit(copy, 7)
    assert len(one_by_one(reader_of(copy, "never", workers))) == 12


@pytest.mark.parametrize("workers", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_first_compares_a_checksum_once_and_always_every_time(copy: Index, workers: int) -> None:
    first, always = (reader_of(copy, verify, workers) for verify in ("first", "always"))
    for reader in (first, always):
        one_by_one(reader)
    flip_bit(copy, 7)
    assert len(one_by_one(first)) == 12
    with pytest.raises(UsageError, match="clip 7"):
        one_by_one(always)


def test_streaming_does_not_advance_the_global_random_generator(tones: Index) -> None:
    before = torch.random.get_rng_state()
    one_by_one(reader_of(tones, "first", workers=1))
    assert torch.equal(torch.random.get_rng_state(), before)


# --- remote and damaged shards --------------------------------------------------------------------------------


def natural_batches(
    corpus: Index, workers: int = 0, caching: CacheSettings | None = None, with_plan: bool = True, window: int = 32
) -> list[Batch]:
    plan = natural_plan(corpus, window)
    clips = Reader(corpus, "train", cache_settings=caching or CacheSettings())
    stretches = (lambda: plan.needed_shards(0, 1)) if with_plan else None
    reader = SlotReader(clips, LABELS, Excerpt(16000), workers=workers)
    return list(stream_batches(lambda: plan.rank_slots(0, 1), reader, needed_shards=stretches))


def test_batches_from_http_are_those_from_disk(tones: Index, web: Web, caching: CacheSettings) -> None:
    remote, wanted = dataclasses.replace(tones, source=web.url), natural_batches(tones)
    for workers, with_plan in ((0, True), (2, True), (0, False)):
        found = natural_batches(remote, workers, caching, with_plan)
        assert len(found) == len(wanted)
        assert all(same(*pair) for pair in zip(found, wanted, strict=True))
    assert web.served == {shard.name: 1 for shard in shards_of(tones)}
    (noise,) = read_noise(remote, "train", caching)
    assert np.array_equal(noise, read_noise(tones, "train")[0])


def test_batches_are_right_in_a_cache_with_room_for_one_shard_only(
    tones: Index, web: Web, caching: CacheSettings
) -> None:
    """Below the size that `require_room` asks for, reading is slow, but correct and never stuck."""
    largest = max(shard.bytes for shard in shards_of(tones))
    small = dataclasses.replace(caching, gigabytes=largest / 1e9, full_timeout_s=30.0)
    remote = dataclasses.replace(tones, source=web.url)
    plan = natural_plan(tones)
    slots = list(plan.rank_slots(0, 1))[:6]
    for workers in (0, 1):
        reader = SlotReader(Reader(remote, "train", cache_settings=small), LABELS, Excerpt(16000), workers=workers)
        found = list(stream_batches(lambda: slots, reader, needed_shards=lambda: plan.needed_shards(0, 1)))
        assert all(same(*pair) for pair in zip(found, natural_batches(tones)[:6], strict=True))
    assert sum(path.stat().st_size for path in (Path(caching.folder) / "shards").iterdir()) <= largest


def test_a_transport_fault_ends_the_stream_naming_the_address(tones: Index, web: Web, caching: CacheSettings) -> None:
    name = shards_of(tones)[2].name
    web.faults[name] = ["404"] * 9
    for workers in (0, 1):
        with pytest.raises(UsageError, match=rf"^{web.url}/{name}: HTTP 404"):
            natural_batches(dataclasses.replace(tones, source=web.url), workers, caching)


def skipping(corpus: Index, workers: int, caching: CacheSettings | None = None) -> tuple[list[Batch], list[int]]:
    plan = natural_plan(corpus)
    clips = Reader(corpus, "train", on_bad="skip", cache_settings=caching or CacheSettings())
    reader = SlotReader(clips, LABELS, Excerpt(16000), workers=workers)
    found = list(stream_batches(lambda: plan.rank_slots(0, 1), reader))
    return found, reader.skipped.tolist()


def without(batch: Batch, bad: list[int]) -> Batch:
    kept = ~torch.isin(batch.clips, torch.tensor(bad))
    return Batch(batch.step, batch.slot, *(tensor[kept] for tensor in batch[2:]))


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_damaged_clips_out_and_all_else_as_it_is(copy: Index, workers: int) -> None:
    whole, bad = natural_batches(copy), [3, 7, 100]
    for clip in bad:
        flip_bit(copy, clip)
    found, skipped = skipping(copy, workers)
    assert skipped == bad
    assert all(same(one, without(other, bad)) for one, other in zip(found, whole, strict=True))
    with pytest.raises(DamagedError):
        natural_batches(copy, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_leaves_out_a_shard_of_another_size(copy: Index, workers: int) -> None:
    whole, shard = natural_batches(copy), shards_of(copy)[1]
    (copy.root / shard.name).write_bytes(bytes_of(copy, shard)[:-512])
    bad = list(range(shard.start, shard.start + shard.clips))
    found, skipped = skipping(copy, workers)
    assert skipped == bad
    assert all(same(one, without(other, bad)) for one, other in zip(found, whole, strict=True))


def test_skip_leaves_out_a_shard_that_changed_on_the_server(tones: Index, web: Web, caching: CacheSettings) -> None:
    shard = shards_of(tones)[1]
    change_file(web.folder / shard.name, "flipped")
    found, skipped = skipping(dataclasses.replace(tones, source=web.url), 0, caching)
    assert skipped == list(range(shard.start, shard.start + shard.clips))
    assert len(found) == len(natural_batches(tones))
    assert web.served[shard.name] <= 4  # twice by the reader, and perhaps twice by the prefetcher


def test_skip_does_not_skip_transport_faults(tones: Index, web: Web, caching: CacheSettings, copy: Index) -> None:
    web.faults[shards_of(tones)[1].name] = ["404"] * 9
    with pytest.raises(UsageError, match="HTTP 404"):
        skipping(dataclasses.replace(tones, source=web.url), 0, caching)
    (copy.root / shards_of(copy)[0].name).unlink()
    with pytest.raises(UsageError, match=shards_of(copy)[0].name):
        skipping(copy, 0)


def test_a_slot_of_damaged_clips_only_is_an_empty_batch(copy: Index) -> None:
    for clip in (3, 4):
        flip_bit(copy, clip)
    batch = SlotReader(Reader(copy, "train", on_bad="skip"), LABELS, Excerpt(16000)).batch(one_slot(3, 4))
    assert [len(tensor) for tensor in batch[2:]] == [0] * 5
    assert batch.wave.shape == (0, 16000)


# --- one reader for many streams ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stream_that_is_closed_early_costs_nothing_of_the_rest(tones: Index, workers: int) -> None:
    whole, plan = natural_batches(tones), natural_plan(tones)
    reader = SlotReader(Reader(tones, "train"), LABELS, Excerpt(16000), workers=workers)
    for step in (3, 0, 5):
        stream = stream_batches(lambda first=step: plan.rank_slots(0, 1, first), reader)  # type: ignore[misc]
        found = [next(stream) for _ in range(3)]
        stream.close()
        assert all(same(*pair) for pair in zip(found, whole[2 * step : 2 * step + 3], strict=True))


@pytest.mark.parametrize(("most_bytes", "ahead"), [(1, 1), (2 * 16 * 2 * 16000, 2), (1 << 40, 3 * 4)])
def test_reads_that_wait_are_bounded_in_bytes_and_in_number(
    tones: Index, monkeypatch: pytest.MonkeyPatch, most_bytes: int, ahead: int
) -> None:
    monkeypatch.setattr("kws.data.stream._MOST_BYTES_AHEAD", most_bytes)
    monkeypatch.setattr("kws.data.stream._CLIPS_AT_ONCE", 16)
    begun, plan = list[int](), natural_plan(tones)

    class Counted(SlotReader):
        def _read(self, slots: Sequence[Slot]) -> list[Batch]:
            begun.append(len(slots))
            return super()._read(slots)

    reader = Counted(Reader(tones, "train"), LABELS, Excerpt(16000), workers=3)
    slots = [*plan.rank_slots(0, 1)] * 9
    with contextlib.closing(stream_batches(lambda: slots, reader)) as batches:
        for taken in range(1, 20):
            next(batches), next(batches)  # two slots of 8 clips are a read
            deadline = time.monotonic() + 30
            while len(begun) < taken + ahead and time.monotonic() < deadline:
                time.sleep(0.001)
            assert begun == [2] * (taken + ahead)
    reader.close()


@pytest.mark.parametrize("at_once", [1, 20, 512])
def test_slots_that_are_read_together_are_the_same_batches(
    tones: Index, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("kws.data.stream._CLIPS_AT_ONCE", at_once)
    plan = natural_plan(tones)
    found = batches(tones, plan, workers=0)
    for slot, batch in zip(plan.rank_slots(0, 1), found, strict=True):
        assert same(SlotReader(Reader(tones, "train"), LABELS, Excerpt(16000, "start")).batch(slot), batch)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_keeps_its_values_while_it_is_held(tones: Index, workers: int) -> None:
    plan = natural_plan(tones)
    reader = SlotReader(Reader(tones, "train"), LABELS, Excerpt(16000), workers=workers)
    held = list[tuple[Batch, torch.Tensor]]()
    for batch in stream_batches(lambda: plan.rank_slots(0, 1), reader):
        held.append((batch, batch.wave.clone()))
        assert all(torch.equal(one.wave, values) for one, values in held[-3:])


def test_a_silent_server_does_not_delay_the_end_of_a_stream(tones: Index, web: Web, caching: CacheSettings) -> None:
    plan, last = natural_plan(tones), shards_of(tones)[-1].name
    web.faults[last] = ["stall"] * 3
    remote = Reader(dataclasses.replace(tones, source=web.url), "train", cache_settings=caching)
    reader = SlotReader(remote, LABELS, Excerpt(16000), workers=1)
    slots = [slot for slot in plan.rank_slots(0, 1) if last not in names_of(tones, slot)]
    silent = [slot for slot in plan.rank_slots(0, 1) if last in names_of(tones, slot)]
    stream = stream_batches(lambda: [*slots[:2], *silent], reader, lambda: ())
    assert len([next(stream) for _ in range(2)]) == 2
    web.stalled.wait()
    stream.close()
    reader.close()
    assert not web.resume.is_set()


def names_of(corpus: Index, slot: Slot) -> set[str]:
    return {shards_of(corpus)[number].name for number in corpus.split("train").columns["shard"][slot.clips]}


def test_an_index_with_clips_outside_their_shard_is_refused(tones: Index) -> None:
    split = tones.split("train")
    offset = np.array(split.columns["offset"])
    offset[5] += 1 << 30
    offset.flags.writeable = False  # as memory maps are: otherwise numba compiles once more
    wrong = dataclasses.replace(split, columns={**split.columns, "offset": offset})
    corpus = dataclasses.replace(tones, splits={**tones.splits, "train": wrong})
    with pytest.raises(UsageError, match=shards_of(tones)[0].name):
        Reader(corpus, "train").read_rows(np.array([5, 6]), Excerpt(16000))
