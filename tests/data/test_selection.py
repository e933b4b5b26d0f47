"""Tasks applied to corpora: the official sizes; the same clips in any packing, plan, reader and evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kws import cli
from kws.config import Config, DataConfig, TrainConfig
from kws.corpus import tasks
from kws.corpus.tasks import SPLITS, Definition, Silence
from kws.data import index, selection
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.plan import Plan, PlanSettings, Slot
from kws.data.reader import Reader, read_noise
from kws.data.selection import Selection, TaskSplit
from kws.data.stream import SlotReader
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation import evaluate
from kws.packing import pack, scan
from tests.conftest import write_corpus
from tests.corpus import official

SECOND = 16000


def made_index(version: str, shard_clips: int = 2000, order: int | None = None) -> Index:
    """An index of the official names and six noises, without any shard on disk. `order`: seed of a shuffle."""
    words = sorted(official.CORPORA[version].words)
    splits = {
        split: _split(split, _shuffled(names, order), words, shard_clips, SECOND)
        for split, names in official.names(version).items()
    }
    splits["noise"] = _split("noise", _shuffled(official.NOISES, order), ["_background_noise_"], 6, 80 * SECOND)
    return Index(Path("/nowhere"), tuple(words), version, splits)


def _shuffled(names: tuple[str, ...], order: int | None) -> list[str]:
    return list(names) if order is None else [names[i] for i in np.random.default_rng(order).permutation(len(names))]


def _split(name: str, clips: list[str], words: list[str], shard_clips: int, samples: int) -> index.Split:
    columns = {key: np.zeros(len(clips), kind) for key, kind in index.COLUMNS.items()}
    columns["shard"][:] = np.arange(len(clips)) // shard_clips
    columns["word"][:] = np.searchsorted(words, [clip.partition("/")[0] for clip in clips])
    columns["name"][:] = [scan.clip_name_hash(clip.removesuffix(".wav").replace("/", "_")) for clip in clips]
    columns["samples"][:] = samples
    starts = range(0, len(clips), shard_clips)
    shards = tuple(index.Shard(f"{name}/{n}", 1, min(shard_clips, len(clips) - n), n, "") for n in starts)
    cells = index.count_cells(columns["shard"], columns["word"], len(shards), len(words))
    return index.Split(name, shards, columns, cells)


def rows_of(split: index.Split) -> np.ndarray:
    """Ids of the clips that a plan may draw."""
    return np.sort(np.concatenate([split.rows(number) for number in range(len(split.shards))]))


def chosen_names(found: Selection, split: str) -> set[int]:
    """Hashed names of the clips of unknown words that a split uses."""
    view = found.index.split(split)
    rows = rows_of(view)
    words = view.values("word", rows)
    others = [number for number, word in enumerate(found.packed.words) if found.task.definition.is_other(word)]
    return set(view.values("name", rows[np.isin(words, others)]).tolist())


# --- sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "version", "wanted"),
    [
        ("v1-12", "v0.01", (22_246, 3_093, 3_081)),
        ("v2-12", "v0.02", (36_923, 4_445, 4_890)),
        ("v1-30", "v0.01", (51_088, 6_798, 6_835)),
        ("v2-35", "v0.02", (84_843, 9_981, 11_005)),
        ("v1-12-full", "v0.01", (56_197, 7_478, 6_835)),
    ],
)
def test_every_task_has_the_official_sizes(name: str, version: str, wanted: tuple[int, ...]) -> None:
    found = selection.apply_task(made_index(version), tasks.load(name), SECOND)
    assert tuple(found.split_sizes().values()) == wanted == tuple(tasks.load(name).clips.values())
    for split in SPLITS:
        view, counts = found.index.split(split), found.class_counts(split)
        assert view.cells.shape[0] == len(view.shards)
        rows = rows_of(view)
        labels = np.asarray(found.task.class_of)[view.values("word", rows)]
        assert np.bincount(labels[labels >= 0], minlength=len(counts)).tolist() == counts
        words = view.values("word", rows).astype(np.int64)
        shares = index.count_cells(_drawn_with(view), words, len(view.shards), view.cells.shape[1])
        assert np.array_equal(view.cells, shares)
    assert not any("official" in line for line in found.notes())


def _drawn_with(split: index.Split) -> np.ndarray:
    """The shard that each row of rows_of is drawn with."""
    parts = [split.rows(number) for number in range(len(split.shards))]
    numbers = np.repeat(np.arange(len(parts)), list(map(len, parts)))
    return numbers[np.argsort(np.concatenate(parts), kind="stable")]


@pytest.mark.parametrize(("name", "version", "test"), [("v2-12", "v0.02", 408), ("v1-12", "v0.01", 257)])
def test_unknown_and_silence_are_a_tenth_of_the_commands_each(name: str, version: str, test: int) -> None:
    found = selection.apply_task(made_index(version), tasks.load(name), SECOND)
    for split in SPLITS:
        counts = found.class_counts(split)
        assert counts[0] == counts[1] == -(-sum(counts[2:]) // 10)
        assert sum(counts[2:]) == official.CORPORA[version].commands[split]
    assert found.class_counts("test")[0] == test


def test_notes_count_the_clips_of_words_outside_the_classes() -> None:
    corpus = made_index("v0.02")
    (line,) = selection.apply_task(corpus, tasks.load("v2-12"), SECOND).notes()
    assert numbers_in(line) == [12, 25, 3_077, 54_074, 3_077]  # classes; unknown words, used, all; windows of silence
    line, size = selection.apply_task(corpus, tasks.load("v1-30"), SECOND).notes()
    assert numbers_in(line)[:2] == [30, 5]
    assert numbers_in(size)[-3:] == [51_088, 6_798, 6_835]
    assert "speech_commands_v0.01" in size
    assert selection.apply_task(corpus, tasks.words_task(corpus.words), SECOND).notes() == []


def numbers_in(line: str) -> list[int]:
    """The numbers of a note, but for the name of the task in front of it."""
    return [
        int(number.replace(",", "")) for number in re.findall(r"(?<![\w.])\d[\d,]*(?![\w.])", line.partition(": ")[2])
    ]


# --- which clips ----------------------------------------------------------------------------------------------


def test_the_same_clips_are_chosen_in_any_shards_and_order() -> None:
    definition = tasks.load("v2-12")
    found = [
        selection.apply_task(made_index("v0.02", *packing), definition, SECOND)
        for packing in ((2000, None), (317, 1), (10**6, 2))
    ]
    for split in SPLITS:
        first, *others = (chosen_names(each, split) for each in found)
        assert all(other == first for other in others)
        assert len(first) == found[0].class_counts(split)[0]
    windows = [_windows(each) for each in found]
    assert windows[0] == windows[1] == windows[2]


def _windows(found: Selection) -> list[tuple[int, int]]:
    """Noise recording (its hashed name) and place of each window of silence in the test split."""
    view = found.index.split("test")
    assert isinstance(view, TaskSplit)
    assert view.silence is not None
    which, at = np.divmod(view.silence.starts, 8 * SECOND)  # a tenth of each recording is used
    names = found.packed.split("noise").columns["name"][which]
    return list(zip(names.tolist(), at.tolist(), strict=True))


def test_the_clips_with_the_lowest_hashed_names_are_chosen() -> None:
    corpus = made_index("v0.01")
    found = selection.apply_task(corpus, tasks.load("v1-12"), SECOND)
    split = corpus.split("test")
    others = [number for number, word in enumerate(corpus.words) if word not in official.COMMANDS]
    names = split.columns["name"][np.isin(split.columns["word"], others)]
    hashes = selection.hash_names(names, ("unknown", "v1-12", "test"))
    assert chosen_names(found, "test") == set(names[np.argsort(hashes)][:257].tolist())


@pytest.mark.parametrize(
    ("name", "version", "unknown", "windows"),
    [
        ("v1-12", "v0.01", "8c673bd70febda56", "bbb32fc65109a7a9"),
        ("v2-12", "v0.02", "78df4b36e7e78550", "42a880bc4851ea22"),
    ],
)
def test_the_clips_of_the_frozen_tasks_never_change(name: str, version: str, unknown: str, windows: str) -> None:
    # Results are compared across versions of kws by the task's name alone.
    found = selection.apply_task(made_index(version), tasks.load(name), SECOND)
    assert _digest(sorted(chosen_names(found, "test"))) == unknown
    assert _digest(_windows(found)) == windows


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def test_many_chunks_give_the_same_result_as_one(monkeypatch: pytest.MonkeyPatch, noisy: Index) -> None:
    corpus, definition = made_index("v0.01"), tasks.load("v1-12")
    whole = selection.apply_task(corpus, definition, SECOND)
    monkeypatch.setattr(index, "CHUNK_ROWS", 999)  # of a million rows
    pieces = selection.apply_task(corpus, definition, SECOND)
    for split in SPLITS:
        assert chosen_names(pieces, split) == chosen_names(whole, split)
        assert np.array_equal(pieces.index.split(split).cells, whole.index.split(split).cells)
    monkeypatch.setattr(index, "CHUNK_ROWS", 10)
    train = noisy.split("train")
    words, names = (np.concatenate(parts) for parts in zip(*train.chunks("word", "name"), strict=True))
    assert np.array_equal(words, train.columns["word"])
    assert np.array_equal(names, train.columns["name"])


def test_tasks_of_different_names_choose_different_clips() -> None:
    corpus = made_index("v0.01")
    one = tasks.load("v1-12")
    other = dataclasses.replace(one, name="v1-12 again")
    first, second = (chosen_names(selection.apply_task(corpus, each, SECOND), "train") for each in (one, other))
    assert len(first & second) < 0.1 * len(first)


@pytest.mark.parametrize("count", [0, 1, 29, 30, 31])
def test_the_exact_number_is_chosen_even_of_clips_with_equal_names(count: int) -> None:
    # Shards of others may call their clips by number, in every shard anew.
    clips = [f"{word}/{number}.wav" for number in range(10) for word in ("bed", "left") for _ in range(3)]
    split = _split("train", clips, ["bed", "left"], 7, SECOND)
    split.columns["name"][:] = 5
    others = np.array([True, False])
    choice, cells = selection.choose_unknown(split, others, count, ("key",))
    view = TaskSplit("train", split.shards, split.columns, cells, choice)
    rows = rows_of(view)
    assert np.count_nonzero(view.values("word", rows) == 0) == min(count, 30) == cells[:, 0].sum()
    assert np.count_nonzero(view.values("word", rows) == 1) == 30 == cells[:, 1].sum()


def test_no_column_is_copied_and_chunks_are_maps_of_their_own(noisy: Index) -> None:
    found = selection.apply_task(noisy, _own(), 1600)
    for split in SPLITS:
        packed, view = noisy.split(split), found.index.split(split)
        assert all(view.columns[name] is column for name, column in packed.columns.items())
        (piece,) = packed.chunks("word", "name")
        for name, part in zip(("word", "name"), piece, strict=True):
            assert isinstance(part, np.memmap)
            assert not np.shares_memory(part, packed.columns[name])
            assert np.array_equal(part, packed.columns[name])


# --- a packed corpus ------------------------------------------------------------------------------------------


def _own(**changes: object) -> Definition:
    """Two of the three words of the fixture `noisy`, unknown and silence."""
    silence = Silence(share=0.3, of="wanted", kind="noise")
    fields = {"classes": ("silence", "high", "unknown", "mid"), "others": "unknown", "unknown_share": 0.25}
    return Definition(**{"name": "own", "silence": silence, **fields, **changes})  # type: ignore[arg-type]


OWN = """
classes = ["silence", "high", "unknown", "mid"]
others = "unknown"
unknown = { share = 0.25 }
silence = { share = 0.3, of = "wanted", kind = "noise" }
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    assert tasks.load(str(path)) == _own()
    return path


def test_a_renamed_task_selects_the_clips_that_it_selected_by_its_old_name() -> None:
    corpus, current = made_index("v0.01"), tasks.load("v1-12-full")
    old = tasks.parse(current.tree() | {"name": "seed-12"}, "run.json")
    first, second = (selection.apply_task(corpus, definition, SECOND) for definition in (current, old))
    for split in SPLITS:
        assert np.array_equal(rows_of(first.index.split(split)), rows_of(second.index.split(split)))
    # With a share of unknown clips the hash key decides: it contains the old name, as it always did.
    sampled = selection.apply_task(corpus, dataclasses.replace(current, unknown_share=0.1), SECOND)
    assert sampled.index.split("train").subset.key == ("unknown", "seed-12", "train")  # type: ignore[attr-defined]


def test_the_same_clips_are_chosen_in_flac_and_other_shards(noisy: Index, tmp_path: Path) -> None:
    flac, _ = pack.pack(
        [noisy.root.parent / "wav"], tmp_path / "flac", pack.PackOptions(audio_format="flac", shard_bytes=70_000)
    )
    one, other = (selection.apply_task(corpus, _own(), 1600) for corpus in (noisy, flac))
    for split in SPLITS:
        assert one.class_counts(split) == other.class_counts(split)
        assert chosen_names(one, split) == chosen_names(other, split) != set()


class Constant(torch.nn.Module):
    """Gives the same probabilities for every clip."""

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.1, 0.4, 0.3, 0.2]]).expand(len(wave), 4)


def test_plan_reader_and_evaluation_use_each_clip_of_the_task_once(noisy: Index, own: Path) -> None:
    data = DataConfig(shards=str(noisy.root), task=str(own), clip_seconds=0.1, sampling="natural")
    training_set = TrainingSet(Config(data=data, train=TrainConfig(global_batch=32, micro_batch=4)))
    for split in SPLITS:
        packed, view = noisy.split(split), training_set.index.split(split)
        wanted = np.count_nonzero(packed.columns["word"] != noisy.words.index("low"))
        unknown, silent = tasks.rounded_share(0.25, wanted), tasks.rounded_share(0.3, wanted)
        assert sum(training_set.selection.class_counts(split)) == wanted + unknown + silent
        plan = Plan(view, training_set.task.class_of, PlanSettings.from_config(training_set.config), epoch=0)
        drawn = np.concatenate([slot.clips for slot in plan.rank_slots(0, 1)])
        assert np.array_equal(np.sort(drawn), rows_of(view))
        alone = Ranks(0, 1, torch.device("cpu"), 1, None)
        to_evaluate = evaluate.EvaluationData(
            index=training_set.index, split=split, task=training_set.task, excerpt=Excerpt(1600)
        )
        result = evaluate.evaluate_split(Constant(), torch.nn.Identity(), to_evaluate, alone)
        assert np.array_equal(result.clips, rows_of(view))
        assert np.bincount(result.truth, minlength=4).tolist() == training_set.selection.class_counts(split)
        assert np.bincount(result.truth).tolist()[0::2] == [silent, unknown]
        summary = result.summary(split, training_set.task.classes, {})
        assert [sum(row) for row in summary["confusion"]] == training_set.selection.class_counts(split)


@pytest.mark.parametrize("mode", ["natural", "balanced", "weighted", "power"])
def test_one_two_and_four_ranks_have_the_same_plan(noisy: Index, own: Path, mode: str) -> None:
    data = DataConfig(shards=str(noisy.root), task=str(own), clip_seconds=0.1, sampling=mode)  # type: ignore[arg-type]
    training_set = TrainingSet(Config(data=data, train=TrainConfig(global_batch=32, micro_batch=4)))
    plan, inside = training_set.plan(1), set(rows_of(training_set.index.split("train")).tolist())
    whole = {(slot.step, slot.slot): slot.clips.tolist() for slot in plan.rank_slots(0, 1)}
    assert {clip for clips in whole.values() for clip in clips} <= inside
    for world in (2, 4):
        again = {
            (slot.step, slot.slot): slot.clips.tolist()
            for rank in range(world)
            for slot in training_set.plan(1).rank_slots(rank, world)
        }
        assert again == whole
    if mode == "balanced":
        reader = SlotReader(
            Reader(training_set.index, "train"),
            training_set.task.class_of,
            training_set.excerpt,
            training_set.read_samples,
        )
        labels = np.concatenate([reader.batch(slot).labels for slot in plan.rank_slots(0, 1)])
        assert np.ptp(np.bincount(labels, minlength=4)) <= 1


def test_no_window_of_silence_is_in_two_splits(noisy: Index) -> None:
    # Every sample of the noise is a number of its own, so a clip tells where it is from.
    found, used = selection.apply_task(noisy, _own(), 1600), {}
    for split in SPLITS:
        reader, view = Reader(found.index, split), found.index.split(split)
        rows = rows_of(view)
        silent = rows[view.values("word", rows) == len(noisy.words)]
        assert len(silent) == found.class_counts(split)[0] > 0
        used[split] = {sample for clip in silent.tolist() for sample in reader.read(clip).tolist()}
        assert used[split] <= {sample for part in read_noise(noisy, split) for sample in part.tolist()}
    assert sum(map(len, used.values())) == len(set.union(*used.values()))


def test_zeros_need_no_noise_and_stay_in_their_splits(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"high": 40, "low": 40, "mid": 40}, 20, samples=800, noise_seconds=0)
    corpus, _ = pack.pack([source], tmp_path / "shards", pack.PackOptions(shard_bytes=60_000))
    zeros = Silence(share=0.2, of="all", kind="zeros", splits=("train", "valid"))
    found = selection.apply_task(corpus, _own(silence=zeros, unknown_share=None), 1600)
    for split in SPLITS:
        silent, *words = found.class_counts(split)
        assert silent == (0 if split == "test" else tasks.rounded_share(0.2, sum(words)))
        assert sum(words) == len(corpus.split(split))
    view = found.index.split("train")
    made = np.arange(len(corpus.split("train")), len(view))
    batch = SlotReader(Reader(found.index, "train"), found.task.class_of, Excerpt(2000)).batch(Slot(0, 0, made, made))
    assert not batch.wave.any()
    assert set(batch.labels.tolist()) == {0}
    assert set(batch.lengths.tolist()) == {1600}


def test_words_outside_the_classes_are_left_out_where_the_task_says_so(noisy: Index) -> None:
    definition = Definition(name="two", classes=("mid", "high"))
    found = selection.apply_task(noisy, definition, 1600)
    low = int(noisy.split("train").cells[:, noisy.words.index("low")].sum())
    assert found.index.split("train") is noisy.split("train")
    assert sum(found.class_counts("train")) == len(noisy.split("train")) - low
    (line,) = found.notes()
    assert numbers_in(line) == [2, 1, low]
    assert len(evaluate.selected_clips(found.index, "train", found.task)) == sum(found.class_counts("train"))


# --- refused --------------------------------------------------------------------------------------------------


def test_the_setting_silence_together_with_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"silence.*--set data\.silence=0"):
        DataConfig(task="v2-12", silence=0.1)


def test_a_corpus_without_the_words_is_refused_naming_them(noisy: Index) -> None:
    with pytest.raises(UsageError, match=r"data\.task=v2-12: .*yes, no, up, down, left"):
        selection.apply_task(noisy, tasks.load("v2-12"), 1600)


# --- shown ----------------------------------------------------------------------------------------------------


def test_inspect_shows_clips_by_class_beside_the_official_ones(
    noisy: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'classes = ["low", "unknown"]\nothers = "unknown"\ncorpus = "noisy"\nclips = { train = 1, valid = 2, test = 3 }'
    )
    assert cli.main(["inspect", str(noisy.root), "--task", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == {split: len(noisy.split(split)) for split in SPLITS}
    assert found["official"] == {"train": 1, "valid": 2, "test": 3}
    assert found["classes"]["unknown"]["test"] + found["classes"]["low"]["test"] == found["clips"]["test"]
    assert cli.main(["inspect", str(noisy.root), "--task", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # a title breaks where its table is narrow
    assert "clips by task mine" in shown
    assert "not the official corpus (noisy): " in shown
    assert cli.main(["inspect", str(noisy.root), "--task", "words"]) == 0
    assert cli.main(["inspect", str(noisy.root), "--task", "v9"]) == 2
