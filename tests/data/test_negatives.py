"""Windows of negatives: their share of an epoch, where they lie, and that they depend on numbers alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.audio import codec
from kws.config import Config, DataConfig, TrainConfig
from kws.corpus import tasks
from kws.corpus.tasks import UNKNOWN
from kws.data import index, negatives, selection
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.negatives import WindowDraws
from kws.data.plan import Plan, PlanSettings
from kws.data.reader import Reader
from kws.data.selection import Selection, TaskSplit
from kws.data.shard_fetch import DamagedError
from kws.data.store import CacheSettings
from kws.data.stream import SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.evaluation.evaluate import selected_clips
from kws.packing import pack
from tests.conftest import write_corpus

SAMPLES = 1600
MODES = ("natural", "balanced", "weighted", "power")


def write_long(folder: Path, lengths: dict[str, int]) -> Path:
    """Recordings in which every sample says where it is: the number of the recording, then a slow ramp."""
    for number, (name, length) in enumerate(lengths.items()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ramp = 1000 * (number + 1) + np.arange(length) // negatives.HOP
        (folder / name).write_bytes(codec.wav_bytes(ramp.astype(np.int16)))
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three words in several shards, and seven long recordings in more than one shard."""
    folder = tmp_path_factory.mktemp("negatives")
    source = write_corpus(folder / "wav", {"low": 60, "mid": 40, "high": 20}, 20, samples=4000)
    lengths = {f"talk{number}.wav": 40_000 + 8_000 * number for number in range(7)}
    options = pack.PackOptions(shard_bytes=150_000, negatives=(write_long(folder / "talks", lengths),))
    packed, _ = pack.pack([source], folder / "shards", options)
    return packed


def chosen(corpus: Index, share: float = 0.3, silence: float = 0.0) -> Selection:
    definition = tasks.words_task(corpus.words, silence, has_unknown=True)
    return selection.apply_task(corpus, definition, SAMPLES, share)


def plan_of(found: Selection, mode: str = "balanced", epoch: int = 0, **settings: int) -> Plan:
    numbers = {"slots": 4, "micro_batch": 6, "seed": 1, **settings}
    wanted = PlanSettings(mode, negatives=found.negatives, **numbers)  # type: ignore[arg-type]
    return Plan(found.index.split("train"), found.task.class_of, wanted, epoch)


def windows_of(found: Selection, split: str = "train") -> negatives.NegativeWindows:
    part = found.index.split(split)
    assert isinstance(part, TaskSplit)
    assert part.negatives is not None
    return part.negatives


def clips_of(plan: Plan) -> np.ndarray:
    return np.concatenate([slot.clips for step in range(plan.steps) for slot in plan.step_slots(step)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_the_share_of_windows_is_exact_and_the_other_draws_are_as_without(
    corpus: Index, mode: str, share: float
) -> None:
    found = chosen(corpus, share)
    plan, first = plan_of(found, mode), windows_of(found).first_row
    clips = clips_of(plan)
    assert len(clips) == plan.clips
    assert (clips >= first).sum() == plan.num_windows == round(plan.clips * share)
    words = found.index.split("train").values("word", clips[clips < first]).astype(int)
    counts = np.bincount(words, minlength=4)
    assert counts[corpus.words.index("low")] > 0
    assert counts[3] == 0  # the word unknown has windows only
    if mode == "natural":
        assert sorted(clips[clips < first].tolist()) == list(range(len(corpus.split("train"))))
    if mode == "balanced":
        assert counts[:3].max() - counts[:3].min() <= 1


def test_the_epoch_is_as_long_as_asked_for(corpus: Index) -> None:
    plan = plan_of(chosen(corpus, 0.25), epoch_clips=240)
    assert (plan.clips, plan.num_windows) == (240, 60)


def test_every_part_of_the_recordings_is_drawn_equally_often(corpus: Index) -> None:
    windows = windows_of(chosen(corpus))
    for count in (7, 500, 5 * len(windows)):
        draws = WindowDraws(windows, count, "test", 1)
        ids = draws.draw(0, count)
        assert ids.min() >= windows.first_row
        assert ids.max() < windows.first_row + len(windows)
        per_recording = np.bincount(windows.locate(ids)[0], minlength=len(windows.packed))
        shares = np.diff(np.concatenate([[0], windows.ends])) / len(windows)
        assert np.abs(per_recording - count * shares).max() <= 2
        assert np.array_equal(np.concatenate([draws.draw(0, 3), draws.draw(3, count)]), ids)


def test_a_shard_that_is_drawn_from_is_announced(corpus: Index) -> None:
    found = chosen(corpus, 0.5)
    plan, split = plan_of(found, window=12), found.index.split("train")
    assert len(windows_of(found).packed.shards) > 1
    for needed in plan.needed_shards(0, 2):
        steps = range(needed.first_step, needed.end_step)
        read = np.concatenate([plan.slot(step, slot).clips for step in steps for slot in (0, 1)])
        assert set(split.values("shard", read).tolist()) <= set(needed.shards)
    assert plan.bytes_at_once([0, 1], 2) > max(shard.bytes for shard in split.shards)


def test_epochs_and_seeds_draw_other_windows_and_the_same_again(corpus: Index) -> None:
    found = chosen(corpus)
    first = windows_of(found).first_row
    one, other, seeded = plan_of(found), plan_of(found, epoch=1), plan_of(found, seed=2)
    drawn = [np.sort(clips_of(plan)[clips_of(plan) >= first]).tolist() for plan in (one, other, seeded)]
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]
    assert np.array_equal(clips_of(plan_of(found)), clips_of(one))
    assert plan_of(found).digest == one.digest != other.digest


def test_windows_are_spread_over_the_epoch(corpus: Index) -> None:
    found = chosen(corpus, 0.5)
    plan = plan_of(found, slots=1, micro_batch=20, epoch_clips=400)
    shares = [(plan.slot(step, 0).clips >= windows_of(found).first_row).mean() for step in range(plan.steps)]
    assert np.mean(shares) == 0.5
    halves = np.array_split(shares, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.1


@pytest.mark.parametrize(("workers", "verify"), [(0, "first"), (2, "always"), (0, "never")])
def test_a_batch_has_the_samples_of_its_windows(corpus: Index, workers: int, verify: str) -> None:
    found = chosen(corpus, 0.4, silence=0.2)
    windows, label = windows_of(found), found.task.classes.index(UNKNOWN)
    reader = Reader(found.index, "train", verify)
    slots = SlotReader(reader, found.task.class_of, Excerpt(SAMPLES, "start"), workers=workers)
    plan = plan_of(found)
    seen = 0
    for batch in stream_batches(lambda: plan.rank_slots(0, 1), slots):
        for clip, wave, length, truth in zip(batch.clips, batch.wave, batch.lengths, batch.labels, strict=True):
            if clip < windows.first_row:
                assert truth != label
                continue
            (recording,), (start,) = windows.locate(clip.numpy()[None])
            level = int(wave[0]) // 1000
            assert truth == label
            assert length == SAMPLES
            ramp = level * 1000 + (int(start) + np.arange(SAMPLES)) // negatives.HOP
            assert np.array_equal(wave.numpy(), ramp)
            assert np.array_equal(reader.read(int(clip)), ramp)
            assert f"talk{level - 1}" in reader.name(int(clip))
            assert 0 <= recording < len(windows.packed)
            seen += 1
    slots.close()
    assert seen == plan.num_windows


def test_a_cache_gives_the_same_windows(corpus: Index, tmp_path: Path) -> None:
    found, caching = chosen(corpus, 0.4), CacheSettings(str(tmp_path / "cache"))
    clips = clips_of(plan_of(found))[:64]
    one, other = Reader(found.index, "train"), Reader(found.index, "train", cache_settings=caching)
    for got, wanted in zip(*(reader.read_rows(clips, Excerpt(SAMPLES)) for reader in (one, other)), strict=True):
        assert np.array_equal(got, wanted)


def test_a_row_longer_than_a_window_has_what_follows_it(corpus: Index) -> None:
    windows = windows_of(chosen(corpus))
    last = windows.first_row + int(windows.ends[0]) - 1  # ends with its recording, up to a hop
    reader = Reader(chosen(corpus).index, "train")
    wave, lengths = reader.read_rows(np.array([windows.first_row, last]), Excerpt(SAMPLES), 2 * SAMPLES)
    assert lengths[0] == 2 * SAMPLES
    assert SAMPLES <= lengths[1] < SAMPLES + negatives.HOP
    assert not wave[1, lengths[1] :].any()


def test_damage_in_a_recording_is_found_when_a_window_of_it_is_read(corpus: Index, tmp_path: Path) -> None:
    shutil.copytree(corpus.root, tmp_path / "copy")
    found = chosen(index.load(tmp_path / "copy"))
    windows = windows_of(found)
    shard = found.index.root / windows.packed.shards[0].name
    with shard.open("r+b") as file:
        file.seek(int(windows.packed.columns["offset"][0]) + 5000)
        file.write(b"\x7f\x7f")
    clips = np.array([0, windows.first_row, windows.first_row + int(windows.ends[0])])
    with pytest.raises(DamagedError, match="negatives"):
        Reader(found.index, "train").read_rows(clips, Excerpt(SAMPLES))
    skipping = Reader(found.index, "train", on_bad="skip")
    assert (skipping.read_rows(clips, Excerpt(SAMPLES))[1] < 0).tolist() == [False, True, False]
    assert skipping.skipped.tolist() == [windows.first_row]
    assert (Reader(found.index, "train", "never").read_rows(clips, Excerpt(SAMPLES))[1] > 0).all()


# --- evaluation, settings -------------------------------------------------------------------------------------


def test_evaluations_have_the_same_share_of_windows_each_once(corpus: Index) -> None:
    found = chosen(corpus, 0.3)
    for split in ("valid", "test"):
        windows, own = windows_of(found, split), len(corpus.split(split))
        clips = selected_clips(found.index, split, found.task)
        evaluated = clips[clips >= windows.first_row]
        assert len(evaluated) == min(round(own * 0.3 / 0.7), int((windows.packed.columns["samples"] // SAMPLES).sum()))
        assert len(clips) == own + len(evaluated) == len(np.unique(clips))
        assert (np.diff(evaluated) * negatives.HOP >= SAMPLES - negatives.HOP).all()


def test_a_task_with_unknown_words_keeps_them_beside_the_windows(corpus: Index) -> None:
    definition = tasks.Definition(name="mine", classes=("unknown", "low", "mid"), others="unknown", unknown_share=0.1)
    without = selection.apply_task(corpus, definition, SAMPLES)
    found = selection.apply_task(corpus, definition, SAMPLES, 0.5)
    assert found.class_counts("train") == without.class_counts("train")
    clips, first = clips_of(plan_of(found)), windows_of(found).first_row
    words = found.index.split("train").values("word", clips[clips < first]).astype(int)
    counts = np.bincount(np.asarray(found.task.class_of)[words], minlength=3)
    assert counts.max() - counts.min() <= 1
    assert (clips >= first).mean() == 0.5


def test_what_cannot_be_drawn_is_refused(corpus: Index, tones: Index) -> None:
    with pytest.raises(UsageError, match=r"data\.negatives.*--negatives"):
        chosen(tones)
    dropping = tasks.Definition(name="mine", classes=("low", "mid"))
    with pytest.raises(UsageError, match="mine"):
        selection.apply_task(corpus, dropping, SAMPLES, 0.3)
    with pytest.raises(ValueError, match="negatives"):
        DataConfig(negatives=1.0)


def test_unused_negatives_and_an_empty_class_are_noted(corpus: Index) -> None:
    notes = selection.apply_task(corpus, tasks.words_task(corpus.words), SAMPLES).notes()
    assert any("data.negatives" in note for note in notes)
    empty = tasks.Definition(name="mine", classes=("unknown", *corpus.words), others="unknown")
    assert any("--negatives" in note for note in selection.apply_task(corpus, empty, SAMPLES).notes())
    assert not any("data.negatives" in note for note in chosen(corpus).notes())


def test_a_training_set_adds_the_class_unknown_to_all_words(corpus: Index) -> None:
    data = DataConfig(shards=str(corpus.root), negatives=0.3, clip_seconds=0.25, epoch_clips=64)
    made = TrainingSet(Config(data=data, train=TrainConfig(global_batch=32, micro_batch=8)))
    assert set(made.task.classes) == {*corpus.words, UNKNOWN}
    assert made.plan(0).num_windows == round(64 * 0.3)
    assert torch.tensor(made.task.class_of).max() == 3
