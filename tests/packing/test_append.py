"""Adding clips to a corpus (--append): old shards and rows are unchanged, and wrong sources are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kws import cli
from kws.audio import codec
from kws.data import index
from kws.data.index import SPLITS, Index
from kws.errors import UsageError
from kws.packing import external_index, pack, scan
from tests.conftest import tone, write_corpus
from tests.packing.test_pack import files, samples_in

OLD, NEW = {"left": 20, "right": 16}, {"back": 6, "right": 8}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "wav", OLD, speakers=36, samples=2000, noise_seconds=1)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    return clips(tmp_path / "more", NEW)


def clips(root: Path, words: dict[str, int]) -> Path:
    """Clips of speakers that the corpus does not have."""
    for place, (word, count) in enumerate(words.items()):
        (root / word).mkdir(parents=True)
        for take in range(count):
            pcm = tone(900 + 70 * place, 2000, seed=500 + 50 * place + take)
            (root / word / f"new{take}_nohash_{place}.wav").write_bytes(codec.wav_bytes(pcm))
    return root


@pytest.fixture
def corpus(source: Path, tmp_path: Path) -> Index:
    return pack.pack([source], tmp_path / "shards", pack.PackOptions(shard_bytes=30_000))[0]


def append(corpus: Index, *sources: Path, **more: object) -> tuple[Index, pack.PackReport]:
    return pack.pack(list(sources), corpus.root, pack.PackOptions(shard_bytes=30_000, append=True, **more))  # type: ignore[arg-type]


def labels(corpus: Index, split: str, rows: slice = slice(None)) -> list[tuple[object, ...]]:
    """What the index says of clips, with names for numbers of words and speakers."""
    columns = {name: np.asarray(values)[rows].tolist() for name, values in corpus.splits[split].columns.items()}
    if split != "noise":
        columns["word"] = [corpus.words[number] for number in columns["word"]]
    columns["speaker"] = [corpus.speakers[number].decode() for number in columns["speaker"]]
    return list(zip(*columns.values(), strict=True))


def test_words_that_differ_only_in_a_vowel_sign_can_be_added(tmp_path: Path) -> None:
    corpus, _ = pack.pack([clips(tmp_path / "old", {"का": 4, "की": 4})], tmp_path / "shards")
    new = clips(tmp_path / "new", {"none": 0, "neither": 0, "के": 4})  # of another sound than the old ones
    for take in range(4):
        (new / "के" / f"new{take}_nohash_2.wav").rename(new / "के" / f"new{take}_nohash_0.wav")
    after, _ = append(corpus, new)
    assert after.words == ("का", "की", "के")
    assert sum(map(len, after.splits.values())) == 12


def test_old_shards_and_rows_stay_and_new_ones_follow(corpus: Index, more: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus.root, tmp_path / "before")
    before = index.load(tmp_path / "before")
    after, report = append(corpus, more)
    assert after.content_id != before.content_id
    assert after.words == ("back", "left", "right")
    for split in SPLITS:
        old, new = before.splits[split], after.splits[split]
        assert new.shards[: len(old.shards)] == old.shards
        assert labels(after, split, slice(len(old))) == labels(before, split)
        assert [shard.name for shard in new.shards] == [f"{split}/{n:06d}.tar" for n in range(len(new.shards))]
        assert new.cells.sum() == len(new)
        if split != "noise":
            rows = np.bincount(new.columns["word"], minlength=3)
            assert new.cells.sum(axis=0).tolist() == rows.tolist()
    shards = files(before.root).items()
    assert {name: data for name, data in shards if name.endswith(".tar")}.items() <= files(after.root).items()
    assert scan.verify(after) == (36 + 1 + 14, [])
    assert sorted(json.loads(sample["json"])["word"] for sample in samples_in(after)).count("back") == 6
    assert not (after.root / ".packing").exists()
    assert not report.skipped


def test_a_clip_that_the_corpus_has_is_not_added_again(corpus: Index, source: Path, more: Path) -> None:
    shutil.copytree(more, source, dirs_exist_ok=True)
    after, report = append(corpus, source)
    assert sum(map(len, after.splits.values())) == 36 + 1 + 14
    assert any(note.startswith("37 recordings are in the corpus already (") for note in report.notes)
    assert scan.verify(after).faults == []


def test_a_clip_that_would_now_be_in_another_split_stays_and_is_noted(corpus: Index, source: Path) -> None:
    before = files(corpus.root)
    names = (path.relative_to(source).as_posix() for path in source.glob("[!_]*/*.wav"))
    (source / "testing_list.txt").write_text("\n".join(names))
    _, report = append(corpus, source)
    moved = [note for note in report.notes if "are in another split there" in note]
    assert len(moved) == 1
    assert ": train there, test now" in moved[0]
    assert files(corpus.root) == before


def test_without_new_clips_nothing_changes(corpus: Index, source: Path) -> None:
    before = files(corpus.root)
    after, report = append(corpus, source)
    assert after.content_id == corpus.content_id
    assert files(corpus.root) == before
    assert any("nothing new" in note for note in report.notes)


def test_another_recording_of_a_known_name_is_refused(corpus: Index, source: Path, tmp_path: Path) -> None:
    name = next((source / "left").iterdir()).name
    (tmp_path / "other" / "left").mkdir(parents=True)
    (tmp_path / "other" / "left" / name).write_bytes(codec.wav_bytes(tone(321, 2000)))
    unchanged(corpus, rf"left/{name} .*{corpus.root}; rename it", tmp_path / "other")


def unchanged(corpus: Index, match: str, *sources: Path, **more: object) -> None:
    """Appending is refused, and the corpus is unchanged."""
    before = {name: data for name, data in files(corpus.root).items() if ".packing" not in name}
    with pytest.raises(UsageError, match=match):
        append(corpus, *sources, **more)
    assert {name: data for name, data in files(corpus.root).items() if ".packing" not in name} == before


def test_old_and_new_clips_are_audited_together(corpus: Index, source: Path, tmp_path: Path) -> None:
    old = sorted((source / "left").iterdir())[0]
    (tmp_path / "new" / "up").mkdir(parents=True)
    shutil.copy(old, tmp_path / "new" / "up" / "somebody_nohash_0.wav")
    told = r"1 recording is under more than one word \(.*shards: (train|valid|test)/\d+ = up/somebody_nohash_0.wav\)"
    unchanged(corpus, told, tmp_path / "new")
    after, report = append(corpus, tmp_path / "new", allow_leaks=True)
    assert any("under more than one word" in note for note in report.notes)
    assert scan.verify(after).faults == []


def test_a_speaker_of_another_split_is_refused(corpus: Index, source: Path, tmp_path: Path) -> None:
    speaker = corpus.speakers[corpus.split("train").columns["speaker"][0]].decode()
    (tmp_path / "new" / "up").mkdir(parents=True)
    (tmp_path / "new" / "up" / f"{speaker}_nohash_0.wav").write_bytes(codec.wav_bytes(tone(432, 2000)))
    (tmp_path / "new" / "testing_list.txt").write_text(f"up/{speaker}_nohash_0.wav\n")
    unchanged(corpus, rf"1 speaker is in more than one split \({speaker}: train and test\)", tmp_path / "new")


@pytest.mark.slow
def test_new_shards_may_have_another_format(corpus: Index, more: Path) -> None:
    after, _ = append(corpus, more, audio_format="flac")
    assert scan.verify(after).faults == []
    plain = np.concatenate([split.columns["plain"] for split in after.splits.values()])
    assert plain.tolist().count(0) == 14


def test_append_needs_a_corpus(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no packed corpus there"):
        pack.pack([source], tmp_path / "none", pack.PackOptions(append=True))
    assert not (tmp_path / "none").exists()


def test_an_index_of_shards_elsewhere_is_refused(corpus: Index, more: Path, tmp_path: Path) -> None:
    far, _ = external_index.index_shards(str(corpus.root), tmp_path / "far")
    unchanged(far, "an index of shards at .*--append", more)


@pytest.mark.slow
def test_clips_can_be_added_to_shards_packed_by_others(corpus: Index, more: Path) -> None:
    shutil.rmtree(corpus.root / "index")
    for path in list((corpus.root / "train").iterdir()):
        path.rename(path.with_name(f"mine-{path.name}"))
    theirs, _ = external_index.index_shards(str(corpus.root))
    after, _ = append(theirs, more)
    assert scan.verify(after) == (36 + 1 + 14, [])
    assert len(after.splits["train"].shards) > len(theirs.splits["train"].shards)


def test_the_command_measures_the_features_again(corpus: Index, more: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pack", str(more), str(corpus.root), "--append", "--processes", "1"]) == cli.OK
    after = index.load(corpus.root)
    assert json.loads((corpus.root / "index" / "features.json").read_text())["corpus"] == after.content_id
    assert f"corpus {after.content_id}" in capsys.readouterr().out
    assert cli.main(["verify", str(corpus.root)]) == cli.OK
