"""Finding a clip by key, by the file it was packed from, and by number."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.audio import codec
from kws.corpus import tasks
from kws.data import index, selection
from kws.data.stream import Reader
from kws.errors import UsageError
from kws.packing import pack
from kws.packing.clip_names import find_clip
from tests.conftest import tone, write_corpus


def reader(corpus: index.Index, split: str) -> Reader:
    return Reader(corpus, split, range(len(corpus.words)), 16000)


def test_every_clip_is_found_by_its_key(tones: index.Index) -> None:
    for split in ("train", "valid", "test", "noise"):
        names = reader(tones, split)
        for clip in range(0, len(tones.split(split)), 7):
            assert find_clip(tones, names.name(clip)) == (split, clip)
            assert find_clip(tones, f"{names.name(clip)}.wav") == (split, clip)
            assert find_clip(tones, f"{split}/{clip}") == (split, clip)


def test_a_name_that_begins_like_others_is_not_confused_with_them(tmp_path: Path) -> None:
    source = tmp_path / "wav"
    for name in ("a_nohash_1", "a_nohash_11", "a_nohash_111", "long" * 40 + "_nohash_0", "grün_nohash_0"):
        for word in ("left", "right"):
            (source / word).mkdir(parents=True, exist_ok=True)
            (source / word / f"{name}.wav").write_bytes(
                codec.wav_bytes(tone(300, seed=2 * len(name) + (word == "left")))
            )
    corpus, _ = pack.pack([source], tmp_path / "shards")
    for split in corpus.splits.values():
        names = reader(corpus, split.name) if len(split) else None
        for clip in range(len(split)):
            assert names is not None
            assert find_clip(corpus, names.name(clip)) == (split.name, clip)


def test_a_clip_is_found_by_the_file_it_was_packed_from(tmp_path: Path) -> None:
    (tmp_path / "wav" / "straße").mkdir(parents=True)
    (tmp_path / "wav" / "straße" / "b.c_nohash_0.wav").write_bytes(codec.wav_bytes(tone(300)))
    corpus, _ = pack.pack([tmp_path / "wav"], tmp_path / "shards", pack.PackOptions(percents=(0.0, 0.0)))
    assert find_clip(corpus, "straße/b.c_nohash_0.wav") == find_clip(corpus, "straße/b.c_nohash_0") == ("train", 0)


@pytest.mark.parametrize("name", ["nothing_nohash_0", "", ".", "nohash", "train/x", "elsewhere/0"])
def test_an_unknown_name_is_refused(tones: index.Index, name: str) -> None:
    with pytest.raises(UsageError, match="no clip is called"):
        find_clip(tones, name)


def test_a_number_beyond_the_split_is_refused(tones: index.Index) -> None:
    with pytest.raises(UsageError, match=r"train has clips 0 to \d+, not 99999"):
        find_clip(tones, "train/99999")


def test_silence_is_found_only_by_number(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 24, "mid": 24}, noise_seconds=12)
    packed, _ = pack.pack([source], tmp_path / "shards")
    corpus = selection.apply_task(packed, tasks.words_task(packed.words, 0.2), 16000).index
    last = len(corpus.split("train")) - 1
    assert find_clip(corpus, f"train/{last}") == ("train", last)
    assert reader(corpus, "train").name(last) == f"silence-{last}"
    with pytest.raises(UsageError):
        find_clip(corpus, f"silence-{last}")
