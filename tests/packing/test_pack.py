"""Packing: the same clips give the same shards, stock WebDataset reads them, and whatever is left out is reported."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import webdataset as wds

from kws.audio import codec
from kws.corpus.source import split_by_hash
from kws.data import index as index_file
from kws.data.index import Index
from kws.errors import UsageError
from kws.packing import external_index, pack, scan
from tests.conftest import REAL, tone, write_corpus

WORDS = {"yes": 14, "turn left": 8, "grün": 6}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "wav", WORDS, speakers=28, samples=4000, noise_seconds=1)


def archive(folder: Path, path: Path, *words: str, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for word in words or [child.name for child in sorted(folder.iterdir())]:
            tar.add(folder / word, f"./{word}")
    return path


def files(root: Path) -> dict[str, bytes]:
    """The contents of all files but the list of what was left out, which names the sources."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "left_out.tsv"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def samples_in(corpus: Index) -> list[dict[str, Any]]:
    """Every sample of every shard, as stock WebDataset gives them."""
    urls = [str(corpus.root / shard.name) for split in corpus.splits.values() for shard in split.shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves its files to the garbage collector
        return [sample for url in urls for sample in wds.WebDataset(url, shardshuffle=False)]


def sources_in(corpus: Index, split: str) -> set[str]:
    rows = [sample for sample in samples_in(corpus) if f"/{split}/" in sample["__url__"]]
    return {json.loads(row["json"])["source"] for row in rows}


def test_a_folder_a_tar_and_several_archives_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    whole, packed_twice = [source], [source]
    tar, targz = [archive(source, tmp_path / "a.tar", mode="w")], [archive(source, tmp_path / "a.tar.gz")]
    one = archive(source, tmp_path / "one.tar", "yes", "_background_noise_", mode="w")
    two = archive(source, tmp_path / "two.tar.gz", "turn left", "grün")
    packings = []
    for number, paths in enumerate([whole, packed_twice, tar, targz, [one, two], [two, one]]):
        corpus, _ = pack.pack(paths, tmp_path / f"out{number}", pack.PackOptions(shard_bytes=50_000))
        packings.append((files(corpus.root), corpus.content_id))
    assert all(packing == packings[0] for packing in packings)


def test_parts_packed_by_several_jobs_make_the_whole_corpus(tmp_path: Path) -> None:
    words = {"yes": 28, "grün": 28}  # enough speakers that the whole needs no balancing, which a part cannot have
    source = write_corpus(tmp_path / "wav", words, speakers=28, samples=4000, noise_seconds=1)
    whole, _ = pack.pack([source], tmp_path / "whole")
    tar, out = archive(source, tmp_path / "a.tar.gz"), tmp_path / "out"
    parts = [
        pack.pack([tar], out / f"part-{number}-of-3", pack.PackOptions(part=(number, 3)))[0] for number in (1, 2, 3)
    ]
    together, report = external_index.index_shards(str(out))
    assert report.skipped == []
    assert together.words == whole.words
    for split in index_file.SPLITS:
        assert sources_in(together, split) == sources_in(whole, split)
        assert len(together.splits[split]) == len(whole.splits[split])
    keys = [sample["__key__"] for sample in samples_in(together)]
    assert sorted(keys) == sorted(set(keys)) == sorted(sample["__key__"] for sample in samples_in(whole))
    assert all(10 <= sum(map(len, part.splits.values())) <= 30 for part in parts), "56 clips and a noise, distributed"
    again, _ = pack.pack([source], tmp_path / "again", pack.PackOptions(part=(2, 3)))
    assert again.content_id == parts[1].content_id


def test_missing_listed_clips_are_noted_by_one_part_only(source: Path, tmp_path: Path) -> None:
    names = sorted(path.relative_to(source).as_posix() for path in source.glob("yes/*"))
    (source / "testing_list.txt").write_text("\n".join([*names[:3], "yes/nobody.wav"]))
    notes = [
        pack.pack([source], tmp_path / str(number), pack.PackOptions(part=(number, 3)))[1].notes for number in (1, 2, 3)
    ]
    assert sum("1 clips that are not in the sources" in line for part in notes for line in part) == 1


def test_other_clips_give_another_content_id(source: Path, tmp_path: Path) -> None:
    first, _ = pack.pack([source], tmp_path / "first")
    next((source / "yes").iterdir()).unlink()
    assert pack.pack([source], tmp_path / "second")[0].content_id != first.content_id


def test_stock_webdataset_reads_every_clip_once_with_keys_without_dots(source: Path, tmp_path: Path) -> None:
    (source / "yes" / "a.b c.wav").write_bytes(codec.wav_bytes(tone(300)))
    (source / "yes" / "a_b_c.wav").write_bytes(codec.wav_bytes(tone(310)))
    (source / "yes" / "a.b c.flac").write_bytes(codec.flac_bytes(tone(320)))
    samples = samples_in(pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=50_000))[0])
    keys = [sample["__key__"].rpartition("/")[2] for sample in samples]
    assert len(set(keys)) == len(keys) == sum(WORDS.values()) + 3 + 1
    assert not any("." in key for key in keys)
    for sample in samples:
        label = json.loads(sample["json"])
        assert label.keys() == {"word", "speaker", "source"}
        assert label["source"].startswith(label["word"] + "/")


def test_samples_are_unchanged_in_both_formats(source: Path, tmp_path: Path) -> None:
    for audio_format in ("wav", "flac"):
        corpus, _ = pack.pack(
            [source], tmp_path / f"shards-{audio_format}", pack.PackOptions(audio_format=audio_format)
        )
        for sample in samples_in(corpus):
            before = (source / json.loads(sample["json"])["source"]).read_bytes()
            assert np.array_equal(codec.decode(sample[audio_format]), codec.decode(before))


def test_lists_decide_the_splits(source: Path, tmp_path: Path) -> None:
    clips = sorted(path.relative_to(source).as_posix() for path in source.glob("[!_]*/*.wav"))
    (source / "validation_list.txt").write_text("\n".join(clips[:3]))
    (source / "testing_list.txt").write_text("\n".join([*clips[3:5], "yes/elsewhere.wav"]))
    corpus, report = pack.pack([source], tmp_path / "out")
    assert [sources_in(corpus, split) for split in ("valid", "test", "train")] == [
        set(clips[:3]), set(clips[3:5]), set(clips[5:]),
    ]  # fmt: skip
    assert any("1 clips that are not in the sources" in note for note in report.notes)


def test_without_lists_the_hash_of_the_speaker_decides(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"yes": 60, "no": 60}, speakers=60, samples=400, noise_seconds=1)
    corpus, report = pack.pack([source], tmp_path / "out")
    for split in ("train", "valid", "test"):
        speakers = [name.rpartition("/")[2].partition("_")[0] for name in sources_in(corpus, split)]
        assert {split_by_hash(speaker) for speaker in speakers} <= {split}
    assert any("hash of the speaker" in note for note in report.notes)


def shares(corpus: Index) -> list[float]:
    """Of the clips of words, in percent: valid, test."""
    total = sum(len(split) for name, split in corpus.splits.items() if name != "noise")
    return [100 * len(corpus.splits[name]) / total for name in ("valid", "test")]


def test_percentages_move_speakers_to_valid_and_test(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"yes": 200}, speakers=200, samples=400, noise_seconds=0)
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(percents=(25.0, 0.0)))
    assert shares(corpus) == [pytest.approx(25, abs=8), 0]
    assert any("75/25/0 %" in note for note in report.notes)
    wider, _ = pack.pack([source], tmp_path / "wider", pack.PackOptions(percents=(25.0, 37.5)))
    assert shares(wider)[1] == pytest.approx(37.5, abs=8)
    assert sources_in(wider, "valid") == sources_in(corpus, "valid")


def test_without_speakers_the_hash_of_the_file_name_decides(tmp_path: Path) -> None:
    source = tmp_path / "wav"
    for word in ("yes", "no"):
        (source / word).mkdir(parents=True)
        for take in range(40):
            pcm = tone(300, 400, seed=take + 100 * len(word))
            (source / word / f"{take}.wav").write_bytes(codec.wav_bytes(pcm))
    corpus, _ = pack.pack([source], tmp_path / "out")
    for split in ("train", "valid", "test"):
        names = {name.partition("/")[2].removesuffix(".wav") for name in sources_in(corpus, split)}
        assert {split_by_hash(name) for name in names} == {split}


def test_percentages_beside_lists_are_noted_as_ignored(source: Path, tmp_path: Path) -> None:
    (source / "testing_list.txt").write_text(f"yes/{next((source / 'yes').iterdir()).name}\n")
    _, report = pack.pack([source], tmp_path / "out", pack.PackOptions(percents=(20.0, 10.0)))
    assert any("--valid and --test" in note for note in report.notes)


def test_clips_without_a_split_beside_a_csv_are_used_for_training(source: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for split in ("train", "test"):
        (tmp_path / "own" / f"{split}.wav").write_bytes(codec.wav_bytes(tone(1000 + len(split), 4000)))
    table = tmp_path / "clips.csv"
    table.write_text("path,word,split\nown/train.wav,yes,train\nown/test.wav,yes,test\n")
    assert not any("no split" in note for note in pack.pack([table], tmp_path / "table")[1].notes)
    corpus, report = pack.pack([source, table], tmp_path / "both")
    assert [len(corpus.splits[split]) for split in ("train", "valid", "test")] == [29, 0, 1]
    assert any("no split is given for 28 clips" in note for note in report.notes)


def test_similar_words_and_empty_splits_are_noted(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"Go": 3, "go": 3, "stop": 2}, samples=2000)
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(percents=(0.0, 0.0)))
    assert corpus.words == ("Go", "go", "stop")
    assert any("'Go' and 'go'" in note for note in report.notes)
    assert [name for name in ("valid", "test") if any(f"the {name} split has no clips" in n for n in report.notes)] == [
        "valid",
        "test",
    ]


def test_noise_is_a_split_and_no_word(source: Path, tmp_path: Path) -> None:
    corpus, _ = pack.pack([source], tmp_path / "out")
    assert corpus.words == tuple(sorted(WORDS))
    assert len(corpus.split("noise")) == 1
    for name, split in corpus.splits.items():
        assert all(("noise" in shard.name) == (name == "noise") for shard in split.shards)


def test_the_index_matches_the_shards(source: Path, tmp_path: Path) -> None:
    corpus, _ = pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=50_000))
    for split in corpus.splits.values():
        for number, shard in enumerate(split.shards):
            data = (corpus.root / shard.name).read_bytes()
            assert len(data) == shard.bytes
            for row in range(shard.start, shard.start + shard.clips):
                start, length = (int(split.columns[name][row]) for name in ("offset", "length"))
                pcm = codec.decode(data[start : start + length])
                assert len(pcm) == split.columns["samples"][row]
                assert split.columns["shard"][row] == number
        assert split.cells.sum() == len(split) == sum(shard.clips for shard in split.shards)


def test_shards_have_about_the_requested_size(source: Path, tmp_path: Path) -> None:
    corpus, _ = pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=60_000))
    shards = corpus.split("train").shards
    assert len(shards) >= 3
    assert all(40_000 < shard.bytes < 75_000 for shard in shards[:-1])  # a tar is padded to 10,240 bytes
    assert [shard.name for shard in shards] == [f"train/{number:06d}.tar" for number in range(len(shards))]


def test_clips_are_shuffled_over_the_shards(source: Path, tmp_path: Path) -> None:
    words = pack.pack([source], tmp_path / "out")[0].split("train").columns["word"]
    assert np.count_nonzero(np.diff(words.astype(int))) > len(words) / 4


def write(path: Path, samples: np.ndarray[Any, Any], rate: int, subtype: str) -> None:
    soundfile.write(path, samples, rate, subtype=subtype)


@pytest.mark.parametrize(
    ("rate", "channels", "subtype"),
    [
        (44100, 2, "PCM_24"),
        *(
            pytest.param(*kind, marks=pytest.mark.slow)
            for kind in (
                (16000, 2, "PCM_16"),
                (48000, 1, "PCM_16"),
                (8000, 1, "PCM_16"),
                (16000, 1, "PCM_24"),
                (16000, 1, "FLOAT"),
                (16000, 1, "DOUBLE"),
                (16000, 1, "PCM_U8"),
            )
        ),
    ],
)
def test_other_sample_formats_become_16_khz_mono(
    source: Path, tmp_path: Path, rate: int, channels: int, subtype: str
) -> None:
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    write(source / "yes" / "odd_nohash_0.wav", np.stack([wave] * channels, axis=1), rate, subtype)
    corpus, report = pack.pack([source], tmp_path / "out")
    assert not report.skipped
    odd = next(codec.decode(s["wav"]) for s in samples_in(corpus) if "odd_nohash_0" in s["__key__"]) / 32768
    assert len(odd) == 16000
    inner = slice(500, -500)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(odd[inner] - wanted[inner]).max() < (0.01 if subtype == "PCM_U8" else 0.002)


def float_wav(value: float) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0.1, value, 0.1]), 16000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


DAMAGED = {
    "zero": (b"", "empty file"),
    "header-only": (codec.wav_bytes(tone(300))[:44], "ends early"),
    "truncated": (codec.wav_bytes(tone(300))[:20000], "ends early"),
    "truncated-flac": (codec.flac_bytes(tone(300))[:9000], "not readable as audio"),
    "text": (b"this is not audio\n" * 100, "not readable as audio"),
    "nan": (float_wav(float("nan")), "not finite"),
    "infinity": (float_wav(float("inf")), "not finite"),
}


def test_damaged_recordings_are_left_out_and_reported_with_the_reason(source: Path, tmp_path: Path) -> None:
    clean, _ = pack.pack([source], tmp_path / "clean")
    for name, (data, _) in DAMAGED.items():
        (source / "yes" / f"{name}.wav").write_bytes(data)
    corpus, report = pack.pack([source], tmp_path / "out")
    assert corpus.content_id == clean.content_id
    assert len(report.skipped) == len(DAMAGED)
    for name, (_, reason) in DAMAGED.items():
        line = next(line for line in report.skipped if f"yes/{name}.wav: " in line)
        assert line.startswith(str(source))
        assert reason in line
        assert "0x" not in line


def test_a_damaged_recording_of_a_csv_is_reported_with_its_file(source: Path, tmp_path: Path) -> None:
    (source / "cut.wav").write_bytes(codec.wav_bytes(tone(300))[:-5])
    (tmp_path / "clips.csv").write_text(f"path,word\n{source}/cut.wav,yes\n{next((source / 'yes').iterdir())},yes\n")
    _, report = pack.pack([tmp_path / "clips.csv"], tmp_path / "out")
    assert len(report.skipped) == 1
    assert report.skipped[0].endswith(f"({source / 'cut.wav'})")


def test_audio_outside_word_folders_is_reported(source: Path, tmp_path: Path) -> None:
    (source / "loose.wav").write_bytes(codec.wav_bytes(tone(300)))
    _, report = pack.pack([source], tmp_path / "out")
    assert len(report.skipped) == 1
    assert report.skipped[0].startswith(f"{source}: loose.wav: ")


def test_the_same_recording_twice_is_packed_once_and_noted(source: Path, tmp_path: Path) -> None:
    again = archive(source, tmp_path / "again.tar", "grün")
    corpus, report = pack.pack([source, again], tmp_path / "out")
    assert corpus.content_id == pack.pack([source], tmp_path / "once")[0].content_id
    (note,) = (note for note in report.notes if "packed once" in note)
    assert f"{again}: grün/" in note
    assert f"{WORDS['grün'] - 1} more" in note


def test_two_recordings_of_one_name_are_refused(source: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other", {"yes": 1}, samples=3000, noise_seconds=0)
    name = next((other / "yes").iterdir()).name
    (source / "yes" / name).write_bytes(codec.wav_bytes(tone(555)))
    refused(rf"{other}: yes/{name} .* {source}; rename one", [source, other], tmp_path / "out")


def refused(match: str, sources: list[Path], out: Path) -> None:
    """Packing raises that error, and leaves no corpus and no scratch folder."""
    with pytest.raises(UsageError, match=match):
        pack.pack(sources, out)
    assert not out.is_dir() or not any(out.iterdir())


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    refused("gone: no such folder or archive", [tmp_path / "gone"], tmp_path / "out")


def test_a_source_without_audio_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("empty: no audio in word folders there", [source, tmp_path / "empty"], tmp_path / "out")


def test_a_damaged_archive_is_refused(source: Path, tmp_path: Path) -> None:
    path = archive(source, tmp_path / "a.tar.gz")
    path.write_bytes(path.read_bytes()[:-1000])
    refused("a.tar.gz: damaged after", [path], tmp_path / "out")


def test_sources_without_a_usable_clip_are_refused(source: Path, tmp_path: Path) -> None:
    for word in WORDS:
        shutil.rmtree(source / word)
    refused(r"no readable clip \(0 damaged\)", [source], tmp_path / "out")
    (source / "yes").mkdir()
    (source / "yes" / "x.wav").write_bytes(b"")
    refused(r"no readable clip \(1 damaged, such as .*/.*: ", [source], tmp_path / "out")


def test_a_packed_corpus_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    corpus, _ = pack.pack([source], tmp_path / "out")
    before = files(corpus.root)
    with pytest.raises(UsageError, match="out: holds a packed corpus already"):
        pack.pack([source], corpus.root)
    assert files(corpus.root) == before


@pytest.mark.parametrize(
    "place",
    ["test/000000.tar", *(pytest.param(name, marks=pytest.mark.slow) for name in ("train/x", "index/x"))],
)
def test_existing_files_are_not_deleted(source: Path, tmp_path: Path, place: str) -> None:
    mine = tmp_path / "out" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match="out: not empty"):
        pack.pack([source], tmp_path / "out")
    assert files(tmp_path / "out") == {place: b"mine"}


def stopped(source: Path, out: Path, what: str = "write", **more: Any) -> None:
    """A packing that is interrupted after it wrote the first shards (or decoded the first clips)."""

    def stop(doing: str, done: int, total: int) -> None:
        if doing == what and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack.pack([source], out, pack.PackOptions(shard_bytes=50_000, **more), progress=stop)
    assert not (out / "index").exists()


def test_an_interrupted_packing_resumes_and_notes_it(source: Path, tmp_path: Path) -> None:
    clean, _ = pack.pack([source], tmp_path / "clean", pack.PackOptions(shard_bytes=50_000))
    stopped(source, tmp_path / "out")
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=50_000))
    assert files(corpus.root) == files(clean.root)
    assert "29 of 29 recordings were decoded already" in report.notes[0]
    assert "1 shards" in report.notes[0]


def test_resuming_with_other_options_keeps_decoded_samples_but_no_shards(source: Path, tmp_path: Path) -> None:
    clean, _ = pack.pack([source], tmp_path / "clean", pack.PackOptions(audio_format="flac", percents=(30.0, 10.0)))
    stopped(source, tmp_path / "out")
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(audio_format="flac", percents=(30.0, 10.0)))
    assert files(corpus.root) == files(clean.root)
    assert "29 of 29 recordings were decoded already" in report.notes[0]
    assert "shards" not in report.notes[0]


def test_other_sources_start_from_the_beginning_and_that_is_noted(source: Path, tmp_path: Path) -> None:
    stopped(source, tmp_path / "out")
    tar = archive(source, tmp_path / "a.tar", mode="w")
    corpus, report = pack.pack([tar], tmp_path / "out")
    assert files(corpus.root) == files(pack.pack([source], tmp_path / "clean")[0].root)
    assert any("of other sources" in note for note in report.notes)


def test_a_changed_recording_is_decoded_again(source: Path, tmp_path: Path) -> None:
    stopped(source, tmp_path / "out")
    changed, gone, *_ = sorted((source / "yes").iterdir())
    changed.write_bytes(codec.wav_bytes(tone(777, 3000)))
    gone.unlink()
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=50_000))
    assert files(corpus.root) == files(
        pack.pack([source], tmp_path / "clean", pack.PackOptions(shard_bytes=50_000))[0].root
    )
    assert "15 of 28 " in report.notes[0]  # those before it: the others have another position in the sources


@pytest.mark.slow
def test_swapped_recordings_are_decoded_again(source: Path, tmp_path: Path) -> None:
    for path in source.rglob("*.wav"):
        os.utime(path, (10**9, 10**9))  # as in archives; and all files are of one size
    stopped(source, tmp_path / "out")
    one, other = (sorted((source / word).iterdir())[0] for word in ("yes", "grün"))
    for path, place in ((one, tmp_path / "aside"), (other, one), (tmp_path / "aside", other)):
        path.rename(place)
    corpus, _ = pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=50_000))
    assert files(corpus.root) == files(
        pack.pack([source], tmp_path / "clean", pack.PackOptions(shard_bytes=50_000))[0].root
    )


def test_damaged_scratch_files_are_detected(source: Path, tmp_path: Path) -> None:
    stopped(source, tmp_path / "out")
    (pcm,) = (tmp_path / "out" / ".packing").glob("*.pcm")
    size = pcm.stat().st_size
    pcm.write_bytes(bytes(size))
    refused(r"pcm: damaged at ", [source], tmp_path / "out")
    stopped(source, tmp_path / "out")
    (pcm,) = (tmp_path / "out" / ".packing").glob("*.pcm")
    pcm.write_bytes(pcm.read_bytes()[: size // 2])
    corpus, report = pack.pack([source], tmp_path / "out", pack.PackOptions(shard_bytes=50_000))
    assert files(corpus.root) == files(
        pack.pack([source], tmp_path / "clean", pack.PackOptions(shard_bytes=50_000))[0].root
    )
    assert "13 of 29 " in report.notes[0]


@pytest.mark.slow
def test_unknown_scratch_files_are_removed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".packing" / "train").mkdir(parents=True)
    (tmp_path / "out" / ".packing" / "pcm").write_bytes(b"x" * 99)
    (tmp_path / "out" / ".packing" / "journal").write_bytes(b"x" * 4099)
    corpus, _ = pack.pack([source], tmp_path / "out")
    assert files(corpus.root) == files(pack.pack([source], tmp_path / "clean")[0].root)


def test_a_file_in_the_place_of_a_shard_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    stopped(source, tmp_path / "out")
    (tmp_path / "out" / "train").mkdir()
    (tmp_path / "out" / "train" / "000000.tar").write_text("mine")
    with pytest.raises(UsageError, match=r"train/000000.tar: "):
        pack.pack([source], tmp_path / "out")
    assert (tmp_path / "out" / "train" / "000000.tar").read_text() == "mine"


@pytest.mark.multiproc
def test_any_number_of_processes_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    (source / "yes" / "damaged.wav").write_bytes(b"")
    tar = archive(source, tmp_path / "a.tar.gz")
    one, report = pack.pack([source], tmp_path / "one", pack.PackOptions(shard_bytes=50_000))
    for number, path in enumerate([source, tar]):
        many, said = pack.pack([path], tmp_path / f"many{number}", pack.PackOptions(shard_bytes=50_000), processes=4)
        assert files(many.root) == files(one.root)
        assert [line.removeprefix(str(path)) for line in said.skipped] == [
            line.removeprefix(str(source)) for line in report.skipped
        ]


@pytest.mark.slow
@pytest.mark.multiproc
def test_real_clips_give_the_same_bytes_with_one_process_and_with_four(real_mini: Index, tmp_path: Path) -> None:
    many, _ = pack.pack([REAL / "speech_commands_mini.tar.gz"], tmp_path / "many", processes=4)
    assert files(many.root) == files(real_mini.root)


def test_a_source_that_cannot_be_read_is_blamed_and_not_the_output(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"yes": 70, "no": 70})
    last = sorted(source.glob("yes/*.wav"))[-1]
    sound = last.read_bytes()
    last.unlink()
    last.symlink_to("/proc/self/mem")  # a file whose reading fails with EIO, for root too
    with pytest.raises(UsageError, match=rf"{last.name}: cannot be read \(Input/output error\).*resume") as caught:
        pack.pack([source], tmp_path / "out")
    assert "cannot be written" not in str(caught.value)
    last.unlink()
    last.write_bytes(sound)
    _, report = pack.pack([source], tmp_path / "out")
    assert any(note.startswith("resumed: ") for note in report.notes)


def test_an_output_that_cannot_be_written_is_blamed_and_not_the_source(source: Path, tmp_path: Path) -> None:
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most[1]))
    try:
        with pytest.raises(UsageError, match=r"out: cannot be written \(File too large\).*ulimit"):
            pack.pack([source], tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


def test_an_output_path_that_is_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="out: cannot be written"):
        pack.pack([source], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_packing_creates_few_files_and_leaves_only_shards_and_index(source: Path, tmp_path: Path) -> None:
    out, most = tmp_path / "out", 0

    def look(what: str, done: int, total: int) -> None:
        nonlocal most
        most = max(most, sum(path.is_file() for path in out.rglob("*")))
        assert 0 <= done <= total

    pack.pack([source], out, progress=look)
    assert 1 <= most <= 10, "the journal and its lists, a scratch file and a shard a split, not a file a clip"
    assert {path.name for path in out.iterdir()} == {"train", "valid", "test", "noise", "index", "sources.json"}


def test_the_output_folder_may_contain_a_colon(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpus, _ = pack.pack([source], Path("run:1"))
    assert scan.verify(corpus) == (sum(WORDS.values()) + 1, [])


def test_the_real_archive_is_packed_completely(real_mini: Index) -> None:
    counts = {name: len(split) for name, split in real_mini.splits.items()}
    assert counts == {"train": 576, "valid": 144, "test": 144, "noise": 6}
    assert scan.verify(real_mini) == (870, [])


def test_words_that_are_probably_not_understood_are_noted(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "flat" / f"yes{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(codec.wav_bytes(tone(300, 800, seed=number)))
    _, report = pack.pack([tmp_path / "flat"], tmp_path / "many", pack.PackOptions(names="{word}"))
    assert any("12 of 12 words" in note for note in report.notes)
    (tmp_path / "flat").rename(tmp_path / "yes")
    _, report = pack.pack([tmp_path], tmp_path.parent / "one")
    assert any("'yes' is the only word" in note for note in report.notes)


def test_clips_of_a_source_without_splits_beside_one_with_split_folders_are_counted(
    source: Path, tmp_path: Path
) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        path = tmp_path / "divided" / split / "yes" / f"{number}.wav"
        path.parent.mkdir(parents=True)
        path.write_bytes(codec.wav_bytes(tone(900, 800, seed=number)))
    _, report = pack.pack([source, tmp_path / "divided"], tmp_path / "out")
    assert any(f"{sum(WORDS.values())} clips: used for training" in note for note in report.notes)
