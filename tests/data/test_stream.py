"""Batches hold what was packed, in the plan's order, whatever the number of loader workers."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.audio import codec
from kws.data import index
from kws.data.index import Index
from kws.data.plan import Plan, PlanSettings, Slot
from kws.data.reader import Reader, read_noise
from kws.data.store import ShardStore
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.errors import UsageError
from kws.packing import external_index, pack
from tests.conftest import tone, write_corpus

LABELS = (2, 0, 1)
"""The class of each of the three words."""

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def plan_of(corpus: Index, recipe: PlanSettings) -> Plan:
    return Plan(corpus.split("train"), LABELS, recipe, epoch=0)


def batches(corpus: Index, plan: Plan, workers: int, samples: int = 16000) -> list[Batch]:
    reader = SlotReader(Reader(corpus, "train"), LABELS, samples)
    return list(stream_batches(lambda: plan.rank_slots(0, 1), reader, workers))


def one_slot(*clips: int) -> Slot:
    return Slot(0, 0, np.arange(len(clips)), np.array(clips, dtype=np.int64))


def source_of(corpus: Index, key: str) -> codec.Pcm:
    """The wav that `tones` packed under that key."""
    return codec.decode((corpus.root.parent / "wav" / f"{key.replace('_', '/', 1)}.wav").read_bytes())


def same(one: Batch, other: Batch) -> bool:
    return (one.step, one.slot) == (other.step, other.slot) and all(
        torch.equal(a, b) for a, b in zip(one[2:], other[2:], strict=True)
    )


@pytest.mark.parametrize(
    "recipe",
    [
        PlanSettings("natural", slots=4, micro_batch=7, seed=0),
        PlanSettings("natural", slots=8, micro_batch=3, seed=0, epoch_clips=26),  # six of the last slots are empty
        PlanSettings("balanced", slots=2, micro_batch=16, seed=1),
    ],
    ids=["natural", "empty slots", "balanced"],
)
def test_batches_are_the_same_for_any_number_of_workers(tones: Index, recipe: PlanSettings) -> None:
    plan = plan_of(tones, recipe)
    alone = batches(tones, plan, workers=0)
    assert [(batch.step, batch.slot) for batch in alone] == [
        (t, j) for t in range(plan.steps) for j in range(recipe.slots)
    ]
    for workers in (1, 3):
        spread = batches(tones, plan, workers)
        assert len(spread) == len(alone)
        assert all(same(*pair) for pair in zip(spread, alone, strict=True))


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


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_clip_is_what_was_packed_under_its_name(tones: Index, split: str) -> None:
    reader = Reader(tones, split)
    words = tones.split(split).columns["word"]
    for clip in range(len(tones.split(split))):
        name = reader.name(clip)
        assert name.startswith(tones.words[words[clip]] + "_")
        assert np.array_equal(reader.read(clip), source_of(tones, name))


def test_longer_clips_are_cut_and_shorter_ones_padded(tones: Index) -> None:
    for samples in (15000, 16000, 17000):
        batch = SlotReader(Reader(tones, "train"), LABELS, samples).batch(one_slot(3, 5))
        kept = min(samples, 16000)
        assert batch.wave.shape == (2, samples)
        assert batch.lengths.tolist() == [kept, kept]
        assert np.array_equal(batch.wave[0, :kept], Reader(tones, "train").read(3)[:kept])
        assert not batch.wave[:, kept:].any()


def test_flac_shards_give_the_same_batches(tones: Index, tmp_path: Path) -> None:
    flac, _ = pack.pack(
        [tones.root.parent / "wav"], tmp_path / "flac", pack.PackOptions(audio_format="flac", shard_bytes=1_000_000)
    )
    names = [Reader(flac, "train").name(clip) for clip in range(40)]
    batch = SlotReader(Reader(flac, "train"), LABELS, 16000).batch(one_slot(*range(40)))
    assert not flac.split("train").columns["plain"].any()
    assert all(np.array_equal(wave, source_of(tones, name)) for wave, name in zip(batch.wave, names, strict=True))


@pytest.mark.parametrize("word", ["grün", "слово", "word" * 30])
def test_names_that_are_long_or_not_ascii_are_read_whole(tmp_path: Path, word: str) -> None:
    source = write_corpus(tmp_path / "wav", {word: 12}, speakers=12, samples=400, noise_seconds=0)
    corpus, _ = pack.pack([source], tmp_path / "out")
    names = [Reader(corpus, "train").name(clip) for clip in range(len(corpus.split("train")))]
    assert set(names) <= {f"{word}_{path.stem}" for path in (source / word).iterdir()}
    assert len(set(names)) == len(names)


@pytest.fixture
def copy(tones: Index, tmp_path: Path) -> Index:
    return index.load(Path(shutil.copytree(tones.root, tmp_path / "shards")))


def flip(corpus: Index, clip: int) -> None:
    """One bit in the middle of the clip's sound, in place: maps that are open see it too."""
    columns = corpus.split("train").columns
    path = corpus.root / corpus.split("train").shards[columns["shard"][clip]].name
    with path.open("r+b") as file:
        file.seek(int(columns["offset"][clip]) + 5000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def one_by_one(corpus: Index, verify: str, workers: int, reader: SlotReader | None = None) -> list[Batch]:
    slots = [Slot(clip, 0, np.array([clip]), np.array([clip])) for clip in range(12)]
    return list(
        stream_batches(lambda: slots, reader or SlotReader(Reader(corpus, "train", verify), LABELS, 16000), workers)
    )


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("verify", ["first", "always"])
def test_a_damaged_clip_stops_the_stream_in_one_line_naming_it(copy: Index, verify: str, workers: int) -> None:
    shard = copy.split("train").shards[0].name
    name = Reader(copy, "train").name(7)
    flip(copy, 7)
    with pytest.raises(UsageError) as caught:
        one_by_one(copy, verify, workers)
    assert str(caught.value) == (
        f"{copy.root / shard}: clip 7 ({name}): crc32 differs from the index; copy or pack the shard again"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_never_verify_lets_it_pass(copy: Index, workers: int) -> None:
    flip(copy, 7)
    assert len(one_by_one(copy, "never", workers)) == 12


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_first_checks_a_clip_once_and_always_every_time(copy: Index, workers: int) -> None:
    first, always = (SlotReader(Reader(copy, "train", verify), LABELS, 16000) for verify in ("first", "always"))
    for reader in (first, always):
        one_by_one(copy, "", workers, reader)
    flip(copy, 7)
    assert len(one_by_one(copy, "", workers, first)) == 12
    with pytest.raises(UsageError, match="clip 7"):
        one_by_one(copy, "", workers, always)


def test_damaged_flac_is_named_even_where_no_checksum_is_looked_at(tones: Index, tmp_path: Path) -> None:
    corpus, _ = pack.pack(
        [tones.root.parent / "wav"], tmp_path / "flac", pack.PackOptions(audio_format="flac", shard_bytes=1_000_000)
    )
    flip(corpus, 7)
    with pytest.raises(UsageError, match=r"train/000000.tar: clip 7 \(\w+\): not readable as audio"):
        Reader(corpus, "train", "never").read(7)


def test_a_shard_of_another_size_is_refused_when_it_is_opened(copy: Index) -> None:
    shard = copy.split("train").shards[0]
    path = copy.root / shard.name
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UsageError, match=rf"000000.tar: {shard.bytes - 512} bytes, the index has {shard.bytes}"):
        Reader(copy, "train").read(0)


@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_shard_is_refused(copy: Index, empty: bool) -> None:
    path = copy.root / copy.split("train").shards[0].name
    path.unlink()
    if empty:
        path.touch()
    with pytest.raises(UsageError, match=r"000000.tar: cannot be read \(.*\); the index names this shard"):
        Reader(copy, "train").read(0)


def test_a_store_keeps_few_maps_open_and_reads_all_the_same(tones: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kws.data.store._OPEN_SHARDS", 2)
    shards, store = tones.split("train").shards, ShardStore(tones.root)
    assert len(shards) > 3
    held = memoryview(store.map_shard(shards[0]))
    for shard in (*shards, *shards):
        assert store.map_shard(shard)[:] == (tones.root / shard.name).read_bytes()
    assert held[:] == (tones.root / shards[0].name).read_bytes()


def test_training_hears_the_first_four_fifths_of_the_noise(tones: Index) -> None:
    whole = codec.decode((tones.root.parent / "wav" / "_background_noise_" / "hiss.wav").read_bytes())
    (heard,) = read_noise(tones, "train")
    assert np.array_equal(heard, whole[: len(whole) * 8 // 10])


def test_a_corpus_without_noise_has_none_to_hear(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 12}, speakers=12, samples=400, noise_seconds=0)
    assert read_noise(pack.pack([source], tmp_path / "out")[0], "train") == []


def test_streaming_leaves_the_global_random_numbers_alone(tones: Index) -> None:
    before = torch.random.get_rng_state()
    one_by_one(tones, "first", workers=1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_clip_may_come_several_times_in_a_batch_and_in_any_order(tones: Index) -> None:
    reader = Reader(tones, "train")
    clips = [90, 3, 90, 0, 41, 3, 90]
    batch = SlotReader(reader, LABELS, 16000).batch(one_slot(*clips))
    assert batch.clips.tolist() == clips
    assert all(np.array_equal(wave, reader.read(clip)) for wave, clip in zip(batch.wave, clips, strict=True))


def test_decoded_and_plain_clips_of_one_batch_are_padded_and_cut_alike(tmp_path: Path) -> None:
    lengths = (300, 1000, 700, 1200, 1, 1000)
    waves = [tone(300, samples, seed=samples) for samples in lengths]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, wave in enumerate(waves):
            data = codec.flac_bytes(wave) if number % 2 else codec.wav_bytes(wave)
            member = tarfile.TarInfo(f"up/{number}.{'flac' if number % 2 else 'wav'}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    corpus, _ = external_index.index_shards(str(tmp_path))
    batch = SlotReader(Reader(corpus, "train"), [0], 1000).batch(one_slot(*range(6)))
    assert batch.lengths.tolist() == [min(samples, 1000) for samples in lengths]
    for row, wave, length in zip(batch.wave, waves, batch.lengths.tolist(), strict=True):
        assert np.array_equal(row[:length], wave[:1000])
        assert not row[length:].any()
