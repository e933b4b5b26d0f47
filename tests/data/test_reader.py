"""A reader gives the clips that were packed, by id: one by one, in rows of equal length, plain or decoded."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from kws.audio import codec
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.reader import Reader, read_noise
from kws.data.shard_fetch import DamagedError
from kws.errors import UsageError
from kws.packing import external_index, pack
from tests.conftest import tone, write_corpus
from tests.data.samples import flip_bit, shards_of

FLAC = pack.PackOptions(audio_format="flac", shard_bytes=1_000_000)


def source_of(corpus: Index, key: str) -> codec.Pcm:
    """Returns the samples of the WAV file that `tones` packed under that key."""
    return codec.decode((corpus.root.parent / "wav" / f"{key.replace('_', '/', 1)}.wav").read_bytes())


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
        wave, lengths = Reader(tones, "train").read_rows(np.array([3, 5]), Excerpt(samples, "start"))
        kept = min(samples, 16000)
        assert (wave.dtype, wave.shape) == (np.int16, (2, samples))
        assert lengths.tolist() == [kept, kept]
        assert np.array_equal(wave[0, :kept], Reader(tones, "train").read(3)[:kept])
        assert not wave[:, kept:].any()


def test_few_shards_stay_open_and_rows_are_right_all_the_same(
    tones: Index, copy: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("reader", "store"):
        monkeypatch.setattr(f"kws.data.{module}.MAX_OPEN_SHARDS", 1)
    shard, reader = copy.split("train").columns["shard"], Reader(copy, "train")
    firsts = [int(np.flatnonzero(shard == number)[0]) for number in range(4)]
    wanted = [Reader(tones, "train").read(clip)[:9000] for clip in firsts]
    # With a new shard the others are closed, which the same call reads too; a clip longer than an excerpt comes later.
    for some in ([0, 1, 2], [3, 0, 1], [2, 3], [0]):
        for samples in (9000, 16000):
            wave, _ = reader.read_rows(np.array(firsts)[some], Excerpt(samples, "start"))
            assert np.array_equal(wave[:, :9000], [wanted[place] for place in some])
    maps = Path("/proc/self/maps").read_text()
    assert sum(str(copy.root / each.name) in maps for each in shards_of(copy)) == 2


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_rows_begin_where_the_excerpt_begins(tmp_path: Path, audio_format: Literal["wav", "flac"]) -> None:
    source = tmp_path / "wav" / "word"
    source.mkdir(parents=True)
    for number in range(6):
        pcm = np.concatenate(
            [np.zeros(3000 * number, np.int16), tone(300, 1500 + 500 * number), np.zeros(5000, np.int16)]
        )
        (source / f"{number}_nohash_0.wav").write_bytes(codec.wav_bytes(pcm))
    options = pack.PackOptions(audio_format=audio_format, percents=(0.0, 0.0))
    reader = Reader(pack.pack([tmp_path / "wav"], tmp_path / "out", options)[0], "train")
    excerpt = Excerpt(3000)
    rows, lengths = reader.read_rows(np.arange(6), excerpt)
    wide, wide_lengths = reader.read_rows(np.arange(6), excerpt, 7000)
    for clip in range(6):
        pcm = reader.read(clip)
        rest = pcm[excerpt.start(pcm) :][:7000]
        assert np.array_equal(rows[clip], excerpt.of(pcm))
        assert np.array_equal(wide[clip], np.pad(rest, (0, 7000 - len(rest))))
        assert (lengths[clip], wide_lengths[clip]) == (3000, len(rest))


def test_rows_may_repeat_a_clip_and_have_any_order(tones: Index) -> None:
    reader = Reader(tones, "train")
    clips = [90, 3, 90, 0, 41, 3, 90]
    wave, _ = reader.read_rows(np.array(clips), Excerpt(16000))
    assert all(np.array_equal(row, reader.read(clip)) for row, clip in zip(wave, clips, strict=True))


def test_flac_shards_give_the_same_rows(tones: Index, tmp_path: Path) -> None:
    flac, _ = pack.pack([tones.root.parent / "wav"], tmp_path / "flac", FLAC)
    names = [Reader(flac, "train").name(clip) for clip in range(40)]
    wave, _ = Reader(flac, "train").read_rows(np.arange(40), Excerpt(16000))
    assert not flac.split("train").columns["plain"].any()
    assert all(np.array_equal(row, source_of(tones, name)) for row, name in zip(wave, names, strict=True))


def test_decoded_and_plain_clips_are_padded_and_cut_alike(tmp_path: Path) -> None:
    lengths = (300, 1000, 700, 1200, 1, 1000)
    waves = [tone(300, samples, seed=samples) for samples in lengths]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, wave in enumerate(waves):
            data = codec.flac_bytes(wave) if number % 2 else codec.wav_bytes(wave)
            member = tarfile.TarInfo(f"up/{number}.{'flac' if number % 2 else 'wav'}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    corpus, _ = external_index.index_shards(str(tmp_path))
    rows, kept = Reader(corpus, "train").read_rows(np.arange(6), Excerpt(1000, "start"))
    assert kept.tolist() == [min(samples, 1000) for samples in lengths]
    for row, wave, length in zip(rows, waves, kept.tolist(), strict=True):
        assert np.array_equal(row[:length], wave[:1000])
        assert not row[length:].any()


@pytest.mark.parametrize("word", ["grün", "слово", "word" * 30])
def test_names_that_are_long_or_not_ascii_are_read_whole(tmp_path: Path, word: str) -> None:
    source = write_corpus(tmp_path / "wav", {word: 12}, speakers=12, samples=400, noise_seconds=0)
    corpus, _ = pack.pack([source], tmp_path / "out")
    names = [Reader(corpus, "train").name(clip) for clip in range(len(corpus.split("train")))]
    assert set(names) <= {f"{word}_{path.stem}" for path in (source / word).iterdir()}
    assert len(set(names)) == len(names)


def test_damaged_flac_is_named_even_without_checksums(tones: Index, tmp_path: Path) -> None:
    corpus, _ = pack.pack([tones.root.parent / "wav"], tmp_path / "flac", FLAC)
    flip_bit(corpus, 7)
    with pytest.raises(DamagedError, match=r"train/000000.tar: clip 7 "):
        Reader(corpus, "train", "never").read(7)


def test_a_shard_of_another_size_is_refused_when_it_is_opened(copy: Index) -> None:
    shard = shards_of(copy)[0]
    path = copy.root / shard.name
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DamagedError, match=rf"000000.tar: {shard.bytes - 512} .*{shard.bytes}"):
        Reader(copy, "train").read(0)


@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_shard_is_refused(copy: Index, empty: bool) -> None:
    path = copy.root / shards_of(copy)[0].name
    path.unlink()
    if empty:
        path.touch()
    with pytest.raises(UsageError, match=r"train/000000.tar"):
        Reader(copy, "train").read(0)


def test_training_uses_the_first_four_fifths_of_the_noise(tones: Index) -> None:
    whole = codec.decode((tones.root.parent / "wav" / "_background_noise_" / "hiss.wav").read_bytes())
    (part,) = read_noise(tones, "train")
    assert np.array_equal(part, whole[: len(whole) * 8 // 10])


def test_a_corpus_without_noise_has_none_to_read(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 12}, speakers=12, samples=400, noise_seconds=0)
    assert read_noise(pack.pack([source], tmp_path / "out")[0], "train") == []


def test_skipped_clips_have_no_length_and_are_noted(copy: Index) -> None:
    flip_bit(copy, 4)
    reader = Reader(copy, "train", on_bad="skip")
    wave, lengths = reader.read_rows(np.array([3, 4, 5]), Excerpt(16000))
    assert lengths.tolist() == [16000, -1, 16000]
    assert np.array_equal(wave[2], reader.read(5))
    assert reader.skipped.tolist() == [4]


def test_words_are_those_of_the_index(tones: Index) -> None:
    clips = np.array([100, 3, 100])
    assert np.array_equal(Reader(tones, "train").words(clips), tones.split("train").columns["word"][clips])
