"""Packing folders of long recordings beside the words: splits, shards, adding, verifying, indexing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.cli import main
from kws.data import index
from kws.data.index import Index
from kws.data.reader import Reader
from kws.errors import UsageError
from kws.packing import contents, external_index, leaks, pack, scan
from kws.packing.pack import PackOptions
from tests.conftest import write_corpus


def long_recordings(folder: Path, count: int, seconds: float = 2.0, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        wave = (rng.standard_normal(int(seconds * 16000)) * 1000).astype(np.int16)
        (folder / f"talk{number}.wav").write_bytes(codec.wav_bytes(wave))
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("words") / "wav", {"low": 24, "mid": 24}, samples=4000, noise_seconds=1)


@pytest.fixture(scope="module")
def packed(words: Path) -> Index:
    options = PackOptions(negatives=(long_recordings(words.parent / "talks", 12),), audio_format="flac")
    return pack.pack([words], words.parent / "shards", options)[0]


def recordings(corpus: Index) -> int:
    return sum(map(len, corpus.negatives.values()))


def test_the_words_are_packed_as_without_negatives(words: Path, packed: Index, tmp_path: Path) -> None:
    plain, _ = pack.pack([words], tmp_path / "plain", PackOptions(audio_format="flac"))
    assert plain.words == packed.words
    assert plain.splits.keys() == packed.splits.keys()
    for name, split in plain.splits.items():
        assert split.shards == packed.splits[name].shards
    assert plain.content_id != packed.content_id
    assert not plain.negatives
    assert not (plain.root / "negatives").exists()
    assert "negatives" not in json.loads((plain.root / "index" / "index.json").read_text())


def test_every_recording_is_in_one_split_and_plain(packed: Index) -> None:
    assert packed.negatives.keys() == {"train", "valid", "test"}
    assert recordings(packed) == 12
    for split, group in packed.negatives.items():
        assert group.columns["plain"].all()
        assert all(shard.name.startswith(f"negatives/{split}/") for shard in group.shards)
    assert not leaks.describe_index(packed)
    assert not scan.verify(packed).faults
    facts = contents.corpus_facts(packed)
    assert facts["negatives"]["train"]["seconds"] == pytest.approx(2.0 * len(packed.negatives["train"]))


def test_negatives_can_be_added_later_and_again(words: Path, packed: Index, tmp_path: Path) -> None:
    out, talks = tmp_path / "shards", words.parent / "talks"
    pack.pack([words], out, PackOptions(audio_format="flac"))
    added, _ = pack.pack([], out, PackOptions(append=True, negatives=(talks,)))
    assert {split: sorted(group.columns["sound"].tolist()) for split, group in added.negatives.items()} == {
        split: sorted(group.columns["sound"].tolist()) for split, group in packed.negatives.items()
    }
    same, report = pack.pack([], out, PackOptions(append=True, negatives=(talks,)))
    assert same.content_id == added.content_id
    assert any("nothing new" in note for note in report.notes)
    more, _ = pack.pack([], out, PackOptions(append=True, negatives=(long_recordings(tmp_path / "more", 5, seed=1),)))
    assert recordings(more) == 17
    assert not scan.verify(more).faults
    assert {name: len(split) for name, split in more.splits.items()} == {
        name: len(split) for name, split in packed.splits.items()
    }
    assert len(Reader(more, "train").read(0)) == 4000


def test_a_recording_in_two_splits_is_refused(words: Path, tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    for split in ("train", "test"):
        long_recordings(talks / split, 2)
    with pytest.raises(UsageError, match="more than one split"):
        pack.pack([words], tmp_path / "shards", PackOptions(negatives=(talks,)))


def test_the_shards_can_be_indexed_again(packed: Index, tmp_path: Path) -> None:
    shutil.copytree(packed.root, tmp_path / "copy", ignore=shutil.ignore_patterns("index"))
    again, _ = external_index.index_shards(str(tmp_path / "copy"))
    assert again.content_id == packed.content_id
    assert again.words == packed.words
    assert {split: len(group) for split, group in again.negatives.items()} == {
        split: len(group) for split, group in packed.negatives.items()
    }


def test_the_command_packs_and_shows_them(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    assert main(["pack", str(words), str(out), "--negatives", str(words.parent / "talks"), "--processes", "1"]) == 0
    assert "negatives" in capsys.readouterr().out
    assert main(["verify", str(out)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "negatives: " in capsys.readouterr().out
    assert main(["pack", str(out), "--append"]) == 2
    assert main(["pack", str(out), "--append", "--negatives", str(tmp_path / "none")]) == 2
    assert index.load(out).negatives
