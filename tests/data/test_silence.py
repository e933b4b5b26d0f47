"""The class silence: windows of noise that no other split uses, planned and read like any other clip."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.audio import codec
from kws.config import Config, DataConfig, TrainConfig
from kws.corpus import tasks
from kws.corpus.tasks import SILENCE
from kws.data import index, selection, silence
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.plan import Plan, PlanSettings, Slot
from kws.data.reader import Reader, read_noise
from kws.data.store import CacheSettings
from kws.data.stream import SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import evaluate
from kws.packing import external_index, pack
from tests.conftest import write_corpus
from tests.data.web import serve

SAMPLES, FRACTION = 1600, 0.25
SPLITS = ("train", "valid", "test")


def quiet(corpus: Index, fraction: float = FRACTION, samples: int = SAMPLES) -> Index:
    return selection.apply_task(corpus, tasks.words_task(corpus.words, fraction), samples).index


def batches_of(reader: Reader, corpus: Index, samples: int = SAMPLES, workers: int = 0) -> SlotReader:
    return SlotReader(reader, range(len(corpus.words)), Excerpt(samples, "start"), workers=workers)


def silent(corpus: Index, split: str) -> np.ndarray:
    """Ids of the split's silence."""
    words = corpus.split(split).values("word", np.arange(len(corpus.split(split))))
    return np.flatnonzero(words == corpus.words.index(SILENCE))


def recordings(corpus: Index) -> list[codec.Pcm]:
    """The noise, whole."""
    reader = Reader(corpus, "noise")
    return [reader.read(clip).copy() for clip in range(len(corpus.split("noise")))]


# --- parts of the noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 9, 10, 160_000, 160_001, 959_999])
def test_the_parts_of_the_splits_cover_a_recording_and_do_not_overlap(length: int) -> None:
    parts = [silence.split_part(length, split) for split in SPLITS]
    assert [part.start for part in parts] == [0, parts[0].stop, parts[1].stop]
    assert parts[2].stop == length
    assert abs((parts[0].stop - parts[0].start) - 0.8 * length) <= 1


def test_no_sample_of_noise_is_in_two_splits(noisy: Index) -> None:
    # Every sample of the noise is a number of its own, so a clip tells where it is from.
    corpus = quiet(noisy)
    used = {split: set() for split in SPLITS}
    for split in SPLITS:
        reader = Reader(corpus, split)
        for clip in silent(corpus, split):
            used[split] |= set(reader.read(int(clip)).tolist())
        used[split] |= {sample for part in read_noise(noisy, split) for sample in part.tolist()}
    everything = np.concatenate(recordings(noisy))
    assert len(np.unique(everything)) == len(everything)
    assert sum(map(len, used.values())) == len(set.union(*used.values())) == len(everything)


def test_windows_lie_inside_one_recording_and_spread_over_all(noisy: Index) -> None:
    corpus = quiet(noisy, 1.0)
    for split in SPLITS:
        parts, reader = read_noise(noisy, split), Reader(corpus, split)
        starts = []
        for clip in silent(corpus, split):
            found = reader.read(int(clip))
            (which,) = [number for number, part in enumerate(parts) if found[0] in part]
            at = int(np.flatnonzero(parts[which] == found[0])[0])
            assert np.array_equal(found, parts[which][at : at + SAMPLES])
            starts.append((which, at))
        room = [max(0, len(part) - SAMPLES + 1) for part in parts]
        assert {which for which, _ in starts} == {number for number, size in enumerate(room) if size > 1}
        if split == "train":
            assert len(set(starts)) > 0.9 * len(starts)


# --- the corpus with one more word ----------------------------------------------------------------------------


def test_every_split_has_its_share_and_its_other_clips_are_unchanged(noisy: Index) -> None:
    corpus = quiet(noisy)
    assert corpus.words == (*noisy.words, SILENCE)
    assert corpus.content_id == noisy.content_id
    for split in SPLITS:
        before, after = noisy.split(split), corpus.split(split)
        assert len(silent(corpus, split)) == math.ceil(FRACTION * len(before)) == len(after) - len(before)
        for name, column in before.columns.items():
            assert after.columns[name] is column
            everything = after.values(name, np.arange(len(after)))
            assert np.array_equal(everything[: len(before)], column)
            assert everything.dtype == column.dtype
            assert [after.values(name, row) for row in range(len(after))] == everything.tolist()
        assert after.shards[:-1] == before.shards
        assert after.cells.sum(axis=0).tolist() == [*before.cells.sum(axis=0), len(silent(corpus, split))]
        assert set(after.values("samples", silent(corpus, split)).tolist()) == {SAMPLES}
    assert corpus.split("noise") is noisy.split("noise")


def test_the_windows_depend_on_the_corpus_alone(noisy: Index) -> None:
    one, again = quiet(noisy), quiet(index.load(noisy.root))
    for split in SPLITS:
        made = silent(one, split)
        assert np.array_equal(one.split(split).values("offset", made), again.split(split).values("offset", made))


def test_a_share_of_zero_changes_nothing(noisy: Index) -> None:
    assert quiet(noisy, 0.0) == noisy


def test_a_small_share_is_at_least_one_clip(noisy: Index) -> None:
    assert [len(silent(quiet(noisy, 1e-6), split)) for split in SPLITS] == [1, 1, 1]


def test_a_missing_split_stays_missing(noisy: Index, tmp_path: Path) -> None:
    shutil.copytree(noisy.root, tmp_path / "shards")
    corpus = index.load(tmp_path / "shards")
    corpus.splits.pop("test")  # type: ignore[attr-defined]
    assert set(quiet(corpus).splits) == {"train", "valid", "noise"}


# --- read as any other clip -----------------------------------------------------------------------------------


def test_a_batch_mixes_words_and_windows_of_noise(noisy: Index) -> None:
    corpus = quiet(noisy)
    made, words = silent(corpus, "train")[:5], np.arange(4)
    clips = np.stack([np.resize(made, 8), np.resize(words, 8)], axis=1).reshape(-1)
    reader = Reader(corpus, "train")
    batch = batches_of(reader, corpus, 3000).batch(Slot(0, 0, np.arange(16), clips))
    assert batch.labels.tolist() == [int(corpus.split("train").values("word", clip)) for clip in clips]
    for wave, length, clip in zip(batch.wave, batch.lengths.tolist(), clips.tolist(), strict=True):
        wanted = reader.read(clip)[:3000]
        assert length == len(wanted) == (SAMPLES if clip in made else 3000)
        assert np.array_equal(wave[:length], wanted)
        assert not wave[length:].any()
        assert reader.name(clip) == (f"silence-{clip}" if clip in made else reader.name(clip))


def test_flac_noise_gives_the_same_silence(noisy: Index, tmp_path: Path) -> None:
    flac, _ = pack.pack(
        [noisy.root.parent / "wav"], tmp_path / "flac", pack.PackOptions(audio_format="flac", shard_bytes=1_000_000)
    )
    assert not flac.split("noise").columns["plain"].any()
    plain, packed = quiet(noisy), quiet(flac)
    for split in SPLITS:
        one, other = Reader(plain, split), Reader(packed, split)
        for clip in silent(plain, split):
            assert np.array_equal(one.read(int(clip)), other.read(int(clip)))


def test_silence_has_no_checksum(noisy: Index) -> None:
    corpus = quiet(noisy)
    made = silent(corpus, "train")[:4]
    for verify in ("first", "always", "never"):
        reader = Reader(corpus, "train", verify)
        wave, _ = reader.read_rows(made, Excerpt(SAMPLES))
        assert np.array_equal(wave[2], reader.read(int(made[2])))


# --- planned as any other clip --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "workers"), [("natural", 0), ("balanced", 0), ("balanced", 2), ("weighted", 0), ("power", 0)]
)
def test_every_mode_draws_silence_as_a_class_and_the_stream_reads_it(noisy: Index, mode: str, workers: int) -> None:
    corpus, words = quiet(noisy), len(noisy.words) + 1
    split = corpus.split("train")
    plan = Plan(split, range(words), PlanSettings(mode, slots=4, micro_batch=6, seed=1), epoch=0)  # type: ignore[arg-type]
    reader = batches_of(Reader(corpus, "train"), corpus, workers=workers)
    batches = list(stream_batches(lambda: plan.rank_slots(0, 1), reader))
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    counts, sizes = np.bincount(labels, minlength=words), split.cells.sum(axis=0)
    if mode == "natural":
        assert counts.tolist() == sizes.tolist()
        assert sorted(torch.cat([batch.clips for batch in batches]).tolist()) == list(range(len(split)))
    if mode == "balanced":
        assert counts.max() - counts.min() <= 1
    assert counts[-1] > 0
    clips = np.concatenate([batch.clips for batch in batches])
    drawn = np.bincount(clips, minlength=len(split))[silent(corpus, "train")]
    assert mode in ("weighted", "power") or drawn.max() - drawn.min() <= 1


@pytest.mark.parametrize("slots", [1, 8])
def test_silence_is_spread_over_steps_and_slots_as_a_packed_word_is(slots: int) -> None:
    # 40 shards of 500 clips. All of silence in a shard of its own would be drawn in one stretch of the epoch.
    corpus = quiet(large(shards=40, clips=500, words=10), 0.1, 16000)
    plan = Plan(corpus.split("train"), range(11), PlanSettings("balanced", slots, 32, seed=0), epoch=0)
    word = corpus.split("train").values("word", np.arange(len(corpus.split("train"))))
    counts = np.array(
        [[(word[slot.clips] == 10).sum() for slot in plan.step_slots(step)] for step in range(plan.steps)]
    )
    other = np.array([[(word[slot.clips] == 3).sum() for slot in plan.step_slots(step)] for step in range(plan.steps)])
    assert counts.sum() == pytest.approx(plan.clips / 11, abs=1)
    assert counts.max() <= 12  # of 32, where 2.9 are expected
    assert counts.std() < 1.2 * other.std()
    thirds = np.array_split(counts.sum(axis=1), 3)
    assert max(map(np.sum, thirds)) < 1.25 * min(map(np.sum, thirds))


def large(shards: int, clips: int, words: int) -> Index:
    """An index whose shards do not exist."""
    rng = np.random.default_rng(0)

    def split(name: str, count: int, samples: int) -> index.Split:
        columns = {key: np.zeros(count * clips, kind) for key, kind in index.COLUMNS.items()}
        columns["shard"] = np.repeat(np.arange(count), clips).astype(np.uint32)
        columns["word"] = rng.integers(0, words, count * clips).astype(np.uint32)
        columns["samples"][:] = samples
        entries = tuple(index.Shard(f"{name}/{n:06}.tar", 10**7, clips, n * clips, "") for n in range(count))
        return index.Split(name, entries, columns, index.count_cells(columns["shard"], columns["word"], count, words))

    splits = {"train": split("train", shards, 16000), "noise": split("noise", 1, 10**6)}
    return Index(Path("/nowhere"), tuple(f"w{n}" for n in range(words)), "", splits)


def test_fewer_clips_of_silence_than_shards() -> None:
    corpus = quiet(large(shards=40, clips=5, words=3), 0.05, 16000)
    split = corpus.split("train")
    assert len(silent(corpus, "train")) == 10
    assert sorted(np.concatenate([split.rows(number) for number in range(41)]).tolist()) == list(range(210))
    plan = Plan(split, range(4), PlanSettings("natural", 2, 7, seed=0), epoch=0)
    assert sorted(clip for slot in plan.rank_slots(0, 1) for clip in slot.clips.tolist()) == list(range(210))


# --- over the network -----------------------------------------------------------------------------------------


def test_remote_shards_are_fetched_and_silence_is_not(noisy: Index, tmp_path: Path) -> None:
    with serve(noisy.root) as web:
        names = tuple(shard.name for split in noisy.splits.values() for shard in split.shards)
        theirs, _ = external_index.index_shards(web.url, tmp_path / "theirs", names)
        web.served.clear()
        corpus, local = quiet(theirs), quiet(noisy)
        caching = CacheSettings(str(tmp_path / "cache"), 0.1)
        reader = Reader(corpus, "train", cache_settings=caching)
        plan = Plan(corpus.split("train"), range(len(corpus.words)), PlanSettings("natural", 2, 8, seed=0), epoch=0)
        slots = list(plan.rank_slots(0, 1))
        for needed in (None, lambda: plan.needed_shards(0, 1)):
            batches = list(stream_batches(lambda: slots, batches_of(reader, corpus), needed_shards=needed))
            assert len(batches) == len(slots)
        assert set(web.served) <= set(names)
        made = silent(corpus, "train")
        for clip, same in zip(made, silent(local, "train"), strict=True):
            assert np.array_equal(reader.read(int(clip)), Reader(local, "train").read(int(same)))
        assert plan.bytes_at_once(range(1), 1) <= sum(shard.bytes for shard in theirs.split("train").shards)


# --- errors -------------------------------------------------------------------------------------------------


def test_a_corpus_without_noise_is_refused(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 12}, speakers=12, samples=400, noise_seconds=0)
    corpus, _ = pack.pack([source], tmp_path / "out")
    with pytest.raises(UsageError, match=r"data\.silence: .*out.*noise"):
        quiet(corpus)


def test_noise_that_is_too_short_is_refused_with_what_would_do(tones: Index) -> None:
    with pytest.raises(UsageError, match=r"^data\.silence: valid .*16000 samples.*160000"):
        quiet(tones, FRACTION, 16000)  # 4 s: 0.4 s for the valid split


def test_a_corpus_with_such_a_word_is_refused(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 12, "silence": 12}, speakers=12, samples=400)
    corpus, _ = pack.pack([source], tmp_path / "out")
    with pytest.raises(UsageError, match="'silence'"):
        quiet(corpus, FRACTION, 400)


# --- trained and evaluated ----------------------------------------------------------------------------------


def test_a_training_set_has_one_more_class_in_alphabetical_order(noisy: Index) -> None:
    data = DataConfig(shards=str(noisy.root), silence=FRACTION, clip_seconds=0.1)
    training_set = TrainingSet(Config(data=data, train=TrainConfig(global_batch=32, micro_batch=8)))
    assert training_set.task.classes == tuple(sorted((*noisy.words, "silence")))
    train = training_set.index.split("train")
    assert (
        training_set.describe()["clips"]["train"] == len(train) == math.ceil((1 + FRACTION) * len(noisy.split("train")))
    )
    labels = np.asarray(training_set.task.class_of)[train.values("word", np.arange(len(train)))]
    drawn = np.concatenate([labels[slot.clips] for slot in training_set.plan(1).rank_slots(0, 1)])
    counts = np.bincount(drawn)
    assert len(counts) == len(noisy.words) + 1
    assert counts.max() - counts.min() <= 1


class ByLoudness(torch.nn.Module):
    """Predicts silence, the last label, for clips that are louder than a word."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        silent = (features.square().mean(dim=(1, 2, 3)) > 0.15).float()[:, None]
        return torch.cat([torch.zeros(len(features), self.classes - 1), 20 * silent - 10], dim=1)


def test_evaluation_includes_silence(noisy: Index) -> None:
    corpus = quiet(noisy)
    task = tasks.Task(tasks.words_task(noisy.words, FRACTION), range(len(corpus.words)))  # type: ignore[arg-type]
    alone = Ranks(0, 1, torch.device("cpu"), 1, None)
    plain = torch.nn.Module()
    plain.forward = lambda wave: wave.float()[:, None, None] / 32768  # type: ignore[method-assign]
    data = evaluate.EvaluationData(index=corpus, split="test", task=task, excerpt=Excerpt(SAMPLES))
    found = evaluate.evaluate_split(ByLoudness(len(corpus.words)), plain, data, alone)
    assert found.clips.tolist() == list(range(len(corpus.split("test"))))
    last = len(corpus.words) - 1
    assert (found.prediction == last).tolist() == (found.truth == last).tolist()
    assert (found.truth == last).sum() == len(silent(corpus, "test"))
