"""Audio files are found where tables of other people have them: one rule for all rows, never another file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus.tables.tables_of_tests import Read, write_audio, write_lines


@pytest.mark.parametrize(
    ("table", "written", "is_as_written"),
    [
        ("clips.csv", "wavs/{}", True),  # relative to the table's folder
        ("clips.csv", "./wavs/{}", True),
        ("lists/clips.csv", "../wavs/{}", True),
        ("clips.csv", "{}", False),  # in a usual folder beside it
        ("lists/clips.csv", "wavs/{}", False),  # relative to a folder above it
        ("clips.csv", "/home/somebody/corpus/wavs/{}", False),  # absolute, on another machine
        ("clips.csv", "C:\\Users\\somebody\\corpus\\wavs\\{}", False),
        ("clips.csv", "wavs\\{}", True),
        ("clips.csv", "corpus/wavs/{}", False),  # relative to the folder that holds the corpus
    ],
)
def test_paths_from_elsewhere_are_found_and_said(tmp_path: Path, table: str, written: str, is_as_written: bool) -> None:
    write_audio(tmp_path / "corpus", "wavs/1.wav", "wavs/2.wav")
    rows = [f"{written.format(number)}.wav,yes" for number in (1, 2)]
    found = Read(write_lines(tmp_path / "corpus" / table, "path,word", *rows))
    assert found.names == ["yes/1.wav", "yes/2.wav"]
    assert bool(found.notes) == (not is_as_written)


def test_absolute_paths_that_exist_are_used(tmp_path: Path) -> None:
    write_audio(tmp_path / "elsewhere", "1.wav")
    found = Read(write_lines(tmp_path / "corpus" / "clips.csv", "path,word", f"{tmp_path}/elsewhere/1.wav,yes"))
    assert found.names == ["yes/1.wav"]


def test_endings_that_are_missing_or_were_changed_are_found(tmp_path: Path) -> None:
    write_audio(tmp_path, "1.wav", "2.wav")
    assert Read(write_lines(tmp_path / "a.csv", "path,word", "1,yes", "2,no")).names == ["no/2.wav", "yes/1.wav"]
    converted = Read(write_lines(tmp_path / "b.csv", "path,word", "1.opus,yes", "2.opus,no"))
    assert converted.names == ["no/2.wav", "yes/1.wav"]
    assert ".wav" in converted.notes


def test_a_missing_file_is_not_taken_for_another_of_its_name(tmp_path: Path) -> None:
    write_audio(tmp_path, "anna/1.wav", "anna/2.wav", "3.wav")
    found = Read(write_lines(tmp_path / "clips.csv", "path,word", "anna/1.wav,yes", "anna/2.wav,no", "bert/3.wav,go"))
    assert found.names == ["no/2.wav", "yes/1.wav"]
    assert [row.audio for row in found.left_out] == ["bert/3.wav"]


def test_the_longest_common_ends_of_paths_are_used(tmp_path: Path) -> None:
    write_audio(tmp_path, "anna/1.wav", "bert/1.wav", "1.wav")
    rows = ["/data/x/anna/1.wav,yes", "/other/bert/1.wav,no"]
    found = Read(write_lines(tmp_path / "clips.csv", "path,word", *rows))
    assert sorted(clip.path for clip in found.clips) == ["anna/1.wav", "bert/1.wav"]


def test_mere_names_are_found_in_the_only_folder_that_has_them(tmp_path: Path) -> None:
    write_audio(tmp_path, "audio_train/1.wav", "audio_train/2.wav", "audio_test/3.wav")
    table = write_lines(tmp_path / "train.csv", "fname,label", "1.wav,yes", "2.wav,no")
    assert Read(table).names == ["no/2.wav", "yes/1.wav"]
    write_audio(tmp_path, "audio_test/1.wav")  # equal names in another folder: which is meant is not known
    assert Read(tmp_path).tables == []
