"""Streams from end to end: labels, levels, equal bytes, resuming, packing them again, and mistakes of the user."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kws import cli, files
from kws.audio import codec
from kws.data.index import Index
from kws.errors import UsageError
from kws.packing import pack
from kws.streaming.mixing import mix
from kws.streaming.mixing.mix import MixReport
from kws.streaming.mixing.settings import MixSettings
from kws.streaming.mixing.speech import active_db
from tests.streaming.mixing.conftest import WORDS, noise

SETTINGS = MixSettings(
    words=("go", "stop"), hours=0.02, file_minutes=0.6, words_per_hour=500, distractors_per_hour=200, gap_s=1, seed=5
)


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "hiss.wav").write_bytes(codec.wav_bytes(noise(90, 8)))
    return folder


@pytest.fixture(scope="module")
def mixed(words: Index, background: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MixReport]:
    """Two files of 36 s."""
    out = tmp_path_factory.mktemp("mixed") / "streams"
    return out, mix.mix(words.root, out, SETTINGS, [background])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_stream_has_its_length_its_labels_and_a_manifest(mixed: tuple[Path, MixReport], words: Index) -> None:
    out, report = mixed
    assert sorted(files_of(out)) == [
        "mix.json", "stream-000.flac", "stream-000.txt", "stream-001.flac", "stream-001.txt",
    ]  # fmt: skip
    manifest = json.loads((out / "mix.json").read_text())
    assert manifest["corpus"]["content_id"] == words.content_id
    assert manifest["settings"]["seed"] == 5
    assert report.counts() == {"go": 5, "stop": 5}
    for file in manifest["files"]:
        audio, rate = soundfile.read(out / file["name"], dtype="int16")
        assert (len(audio), rate) == (36 * 16_000, 16_000)
        assert files.sha256(out / file["name"]) == file["sha256"]
        lines = [line.split("\t") for line in (out / file["labels"]).read_text().splitlines()]
        targets = [word for word in file["words"] if word["target"]]
        assert [(float(start), float(end), word) for start, end, word in lines] == [
            (word["start_s"], word["end_s"], word["word"]) for word in targets
        ]
        assert {word["word"] for word in file["words"] if not word["target"]} == {"yes"}


def test_the_word_is_where_its_label_says_and_nothing_is_between(words: Index, tmp_path: Path) -> None:
    (tmp_path / "zeros.wav").write_bytes(codec.wav_bytes(np.zeros(160_000, np.int16)))
    settings = dataclasses.replace(SETTINGS, rooms=0, distractors_per_hour=0, background_db=(-60, -60))
    report = mix.mix(words.root, tmp_path / "out", settings, [tmp_path / "zeros.wav"])
    for file in report.manifest["files"]:
        audio, _ = soundfile.read(tmp_path / "out" / file["name"], dtype="float32")
        labelled = np.zeros(len(audio), bool)
        for word in file["words"]:
            start, end = round(word["start_s"] * 16_000), round(word["end_s"] * 16_000)
            spectrum = np.abs(np.fft.rfft(audio[start:end]))
            assert spectrum.argmax() * 16_000 / (end - start) == pytest.approx(WORDS[word["word"]], rel=0.2)
            labelled[start - 3200 : end + 3200] = True
        assert not audio[~labelled].any()


def test_the_snr_is_as_the_manifest_says(mixed: tuple[Path, MixReport], words: Index, background: Path) -> None:
    """The same streams without words are the background alone."""
    out, report = mixed
    alone = out.parent / "alone"
    mix.mix(words.root, alone, dataclasses.replace(SETTINGS, words_per_hour=0, distractors_per_hour=0), [background])
    checked = 0
    for file in report.manifest["files"]:
        audio, quiet = (soundfile.read(folder / file["name"], dtype="float32")[0] for folder in (out, alone))
        for word in file["words"]:
            start, end = round(word["start_s"] * 16_000), round(word["end_s"] * 16_000)
            assert 5 <= word["drawn_snr_db"] <= 20
            found = active_db(audio[start:end] - quiet[start:end]) - active_db(quiet[start - 16_000 : end + 16_000])
            assert found == pytest.approx(word["snr_db"], abs=0.3)
            checked += 1
    assert checked == 14
    assert {word["room"] for file in report.manifest["files"] for word in file["words"]} == {True, False}


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_streams(
    mixed: tuple[Path, MixReport], words: Index, background: Path, tmp_path: Path
) -> None:
    out, _ = mixed
    mix.mix(words.root, tmp_path / "again", SETTINGS, [background])
    assert files_of(tmp_path / "again") == files_of(out)
    mix.mix(words.root, tmp_path / "other", dataclasses.replace(SETTINGS, seed=6), [background])
    assert files_of(tmp_path / "other")["stream-000.flac"] != files_of(out)["stream-000.flac"]


def test_a_killed_mix_resumes_to_equal_bytes(
    mixed: tuple[Path, MixReport], words: Index, background: Path, tmp_path: Path
) -> None:
    """The first file is made, the second was being written."""
    out, _ = mixed
    stopped = tmp_path / "stopped"

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, what: str) -> None:
        if done > 40 * 16_000 and total == 72 * 16_000:
            raise KilledError

    with pytest.raises(KilledError):
        mix.mix(words.root, stopped, SETTINGS, [background], progress=kill)
    assert not (stopped / "mix.json").exists()
    (stopped / ".stream-001.flac.0a0a0a0a.partial").write_bytes(b"fLaC")
    report = mix.mix(words.root, stopped, SETTINGS, [background])
    assert report.kept == 1
    assert files_of(stopped) == files_of(out)


def test_a_finished_mix_is_kept_and_a_changed_file_is_made_again(
    mixed: tuple[Path, MixReport], words: Index, background: Path, tmp_path: Path
) -> None:
    out, _ = mixed
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy" / "stream-001.txt").write_text("1\t2\tgo\n")
    report = mix.mix(words.root, tmp_path / "copy", SETTINGS, [background])
    assert report.kept == 1
    assert files_of(tmp_path / "copy") == files_of(out)


def test_a_folder_with_other_streams_or_files_is_refused(
    mixed: tuple[Path, MixReport], words: Index, background: Path, tmp_path: Path
) -> None:
    out, before = mixed[0], files_of(mixed[0])
    with pytest.raises(UsageError, match="other streams"):
        mix.mix(words.root, out, dataclasses.replace(SETTINGS, gap_s=0.5), [background])
    assert files_of(out) == before
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="other files"):
        mix.mix(words.root, tmp_path, SETTINGS, [background])


def test_kws_pack_reads_the_streams_back_by_their_label_tracks(mixed: tuple[Path, MixReport], tmp_path: Path) -> None:
    packed, report = pack.pack([mixed[0]], tmp_path / "shards", processes=1)
    assert not report.skipped
    counts = sum(split.cells.sum(axis=0).astype(int) for name, split in packed.splits.items() if name != "noise")
    assert dict(zip(packed.words, counts.tolist(), strict=True)) == {"go": 5, "stop": 5}


def test_nothing_clips_and_what_is_quieter_for_that_is_said(words: Index, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, snr_db=(30, 40), background_db=(-20, -12), hours=0.01)
    report = mix.mix(words.root, tmp_path / "out", settings, [])
    (file,) = report.manifest["files"]
    audio, _ = soundfile.read(tmp_path / "out" / file["name"], dtype="int16")
    assert np.abs(audio.astype(int)).max() <= 0.981 * 32768
    assert file["clipped_samples"] == 0
    assert all(word["snr_db"] < word["drawn_snr_db"] for word in file["words"])
    assert any("quieter" in note for note in report.notes)


def test_the_command_says_what_it_did(words: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["mix", str(words.root), str(tmp_path / "out"), "--hours", "0.004", "--words", "go", "--snr=-3:3"]
    assert cli.main([*command, "--words-per-hour", "500"]) == cli.OK
    printed = capsys.readouterr().out
    assert "generated noise" in printed
    assert "2 labels of 1 word" in printed
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "a.wav").write_bytes(codec.wav_bytes(noise(3)))
    (tmp_path / "sounds" / "broken.wav").write_bytes(b"RIFF")
    sound = ["--background", str(tmp_path / "sounds"), "--json"]
    assert cli.main([*command[:2], str(tmp_path / "with"), *command[3:], *sound]) == cli.FAILED
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["faults"]) == 1
    assert facts["words"] == {"go": 1}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--words", "gone"], "gone"), (["--split", "valed"], "valid"), (["--snr", "x"], "--snr"),
        (["--background", "/no/such"], "/no/such"), (["--distractors", "9"], "--distractors"),
        (["--hours", "0"], "--hours"), (["--words-per-hour", "9000"], "--words-per-hour"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    words: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    command = ["mix", str(words.root), str(tmp_path / "out"), "--hours", "0.004"]
    assert cli.main([*command, *arguments]) == cli.USAGE
    printed = capsys.readouterr().err
    assert named in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_file(words: Index, background: Path, tmp_path: Path) -> None:
    """Beside the manifest, which has an entry for each word."""
    peaks = []
    for hours in (0.05, 0.5):
        settings = dataclasses.replace(
            SETTINGS, hours=hours, file_minutes=60, words_per_hour=60, distractors_per_hour=0
        )
        tracemalloc.start()
        mix.mix(words.root, tmp_path / str(hours), settings, [background])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4_000_000
