"""An index is read as it was written; a missing or damaged one, or one of another version, is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from kws.data import index
from kws.data.index import Index
from kws.errors import UsageError


def write_again(corpus: Index, folder: Path, source: str = "") -> Index:
    speakers = [name.decode() for name in corpus.speakers]
    return index.write(folder, corpus.words, speakers, corpus.splits, source)


def test_what_is_written_is_read(tones: Index, tmp_path: Path) -> None:
    copy = index.load(write_again(tones, tmp_path).root)
    assert (copy.words, copy.content_id) == (tones.words, tones.content_id)
    for name, split in tones.splits.items():
        assert copy.splits[name].shards == split.shards
        for column in index.COLUMNS:
            assert np.array_equal(copy.splits[name].columns[column], split.columns[column])
    assert {path.suffix for path in (tmp_path / "index").iterdir()} == {"", ".json", ".npy"}, "no partial file is left"


def test_the_source_is_stored_and_is_no_part_of_the_content_id(tones: Index, tmp_path: Path) -> None:
    assert tones.source == ""
    for source in ("", "s3://bucket/x"):
        written = write_again(tones, tmp_path / "i", source)
        assert (written.source, written.content_id) == (source, tones.content_id)
        head = json.loads((tmp_path / "i" / "index" / "index.json").read_text())
        assert ("source" in head) == bool(source)


def test_cells_count_the_clips_of_each_word_in_each_shard(tones: Index) -> None:
    split = tones.split("train")
    for number, shard in enumerate(split.shards):
        rows = split.rows(number)
        assert rows.tolist() == list(range(shard.start, shard.start + shard.clips))
        words = np.bincount(split.values("word", rows), minlength=len(tones.words))
        assert np.array_equal(split.cells[number], words)


def test_a_missing_corpus_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kws pack SRC\.\.\."):
        index.load(tmp_path / "nowhere")
    (tmp_path / "yes").mkdir()
    with pytest.raises(UsageError, match=rf"kws pack {tmp_path} SHARDS"):
        index.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b"{"),
        ("index.json", b"[]"),
        ("index.json", b'{"format": "kws-index", "version": 1}'),
        ("train/offset.npy", b"no array"),
        ("train/cells.npy", b""),
    ],
)
def test_a_damaged_index_is_refused(tones: Index, tmp_path: Path, name: str, content: bytes) -> None:
    shutil.copytree(tones.root / "index", tmp_path / "index")
    (tmp_path / "index" / name).write_bytes(content)
    with pytest.raises(UsageError, match="kws pack"):
        index.load(tmp_path)


def test_a_column_of_another_length_is_named(tones: Index, tmp_path: Path) -> None:
    shutil.copytree(tones.root / "index", tmp_path / "index")
    column = tmp_path / "index" / "train" / "crc32.npy"
    np.save(column, np.load(column)[:-1])
    with pytest.raises(UsageError, match=r"train/crc32\.npy"):
        index.load(tmp_path)


def test_an_unknown_split_is_refused_naming_those_that_have_clips(tones: Index) -> None:
    with pytest.raises(UsageError, match="train, valid, test, noise"):
        tones.split("dev")
