"""Recordings of the corpus are no background, but for the noise that the split may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.audio import codec
from kws.data.index import Index
from kws.packing import pack
from kws.streaming.mixing.background import Rules, open_source
from kws.streaming.mixing.known_sounds import NOTHING, WHOLE, KnownSounds
from tests.conftest import write_corpus
from tests.streaming.mixing.conftest import noise


@pytest.fixture
def corpus(tmp_path: Path) -> Index:
    """Clips of 0.25 s, and a noise recording of 20 s."""
    folder = write_corpus(tmp_path / "wav", {"go": 12}, samples=4000, noise_seconds=20)
    packed, _ = pack.pack([folder], tmp_path / "shards", processes=1)
    return packed


def test_a_clip_is_no_background_and_of_noise_the_part_of_the_split_is(corpus: Index, tmp_path: Path) -> None:
    clip, hiss = next((tmp_path / "wav" / "go").iterdir()), tmp_path / "wav" / "_background_noise_" / "hiss.wav"
    (tmp_path / "same.flac").write_bytes(codec.flac_bytes(codec.decode(hiss.read_bytes())))
    (tmp_path / "new.wav").write_bytes(codec.wav_bytes(noise(20, 7)))
    for split, part in (("train", (0.0, 0.8)), ("test", (0.9, 1.0))):
        known = KnownSounds(corpus, split)
        assert known.part(clip, 0.25) == NOTHING
        assert known.part(hiss, 20.0) == known.part(tmp_path / "same.flac", 20.0) == part
        assert known.part(tmp_path / "new.wav", 20.0) == WHOLE


def test_what_is_in_the_corpus_is_counted(corpus: Index, tmp_path: Path) -> None:
    source = open_source(tmp_path / "wav", Rules((), KnownSounds(corpus, "test")), tmp_path, lambda *done: None)
    assert source.in_corpus == 13
    assert source.hours * 3600 == pytest.approx(2.0)
    assert any("corpus" in note for note in source.notes())


def test_negatives_are_the_background_of_their_own_split_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kws.corpus.negatives.PIECE_S", 4.0)
    monkeypatch.setattr("kws.corpus.negatives._LONGEST_WHOLE_S", 6.0)
    lengths = {"train": 9.0, "valid": 3.0, "test": 8.5}
    for number, (split, seconds) in enumerate(lengths.items()):
        (tmp_path / "talks" / split).mkdir(parents=True)
        (tmp_path / "talks" / split / "talk.wav").write_bytes(codec.wav_bytes(noise(seconds, number)))
    folder = write_corpus(tmp_path / "wav", {"go": 12, "no": 12}, samples=4000, noise_seconds=0)
    options = pack.PackOptions(negatives=(tmp_path / "talks",))
    packed, _ = pack.pack([folder], tmp_path / "shards", options, processes=1)
    for split in lengths:
        known = KnownSounds(packed, split)
        for other, seconds in lengths.items():
            part = known.part(tmp_path / "talks" / other / "talk.wav", seconds)
            assert part == (WHOLE if other == split else NOTHING)
