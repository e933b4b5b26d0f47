"""Tables in a source folder are found and read; every file of the folder is packed, counted or listed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kws.corpus.source import NOISE_FOLDER, Sources
from kws.errors import UsageError
from tests.corpus.tables.tables_of_tests import write_audio, write_json_lines, write_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four recordings of which a table lists three, noise, and a text file."""
    write_audio(tmp_path, "wavs/1.wav", "wavs/2.wav", "wavs/3.wav", "wavs/4.wav", f"{NOISE_FOLDER}/hum.wav")
    write_lines(tmp_path / "README.txt", "hello")
    write_lines(tmp_path / "clips.csv", "filename,label,client_id", *(f"wavs/{n}.wav,yes,s{n}" for n in (1, 2, 3)))
    return tmp_path


def test_a_table_in_a_folder_is_read_and_said(folder: Path) -> None:
    corpus = Sources([folder])
    assert {(one.name, one.speaker) for one in corpus} == {
        ("yes/1.wav", "s1"), ("yes/2.wav", "s2"), ("yes/3.wav", "s3"), (f"{NOISE_FOLDER}/hum.wav", ""),
    }  # fmt: skip
    notes = "\n".join(corpus.notes)
    assert all(what in notes for what in ("clips.csv", "filename", "label", "client_id", "1 audio files"))
    assert corpus.total_bytes > 0
    assert not corpus.ignored


def test_files_that_no_table_lists_and_rows_without_files_are_listed(folder: Path) -> None:
    with (folder / "clips.csv").open("a") as file:
        file.write("wavs/gone.wav,yes,s4\n")
    corpus, listing = Sources([folder]), io.StringIO()
    corpus.list_left_out(listing)
    assert len(list(corpus)) == 4
    lines = listing.getvalue().splitlines()[1:]
    assert [line.split("\t")[1] for line in lines] == ["wavs/gone.wav", "README.txt", "wavs/4.wav"]
    assert len(corpus.ignored) == 1
    assert "gone.wav" in corpus.ignored[0]


def test_a_partial_table_beside_word_folders_loses_nothing(tmp_path: Path) -> None:
    write_audio(tmp_path, *(f"{word}/{number}.wav" for word in ("yes", "no") for number in range(5)))
    write_lines(tmp_path / "checked.csv", "path,word", "yes/1.wav,yes", "no/2.wav,no")
    corpus = Sources([tmp_path])
    assert len(list(corpus)) == 10
    assert any("checked.csv" in note and "--table" in note for note in corpus.notes)
    assert len(list(Sources([tmp_path], tables=["checked.csv"]))) == 2


def test_a_table_whose_words_are_not_the_folders_names_is_read(tmp_path: Path) -> None:
    write_audio(tmp_path, *(f"{speaker}/{number}.wav" for speaker in ("anna", "bert") for number in range(3)))
    write_lines(tmp_path / "clips.csv", "path,word", "anna/0.wav,yes", "bert/0.wav,no")
    assert {one.name for one in Sources([tmp_path])} == {"yes/0.wav", "no/0.wav"}


def test_names_and_the_wish_for_no_table_go_by_folders(folder: Path) -> None:
    write_audio(folder, "wavs/go_5.wav")
    assert "go/go_5.wav" in {one.name for one in Sources([folder], "{word}_{}")}
    with pytest.raises(UsageError, match="wavs/"):
        list(Sources([folder], tables=["none"]))


def test_a_named_table_must_be_in_one_of_the_sources(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_audio(other, "go/1.wav", "no/1.wav")
    corpus = Sources([other, folder], tables=["clips.csv"])
    assert {one.word for one in corpus} == {"go", "no", "yes", NOISE_FOLDER}
    with pytest.raises(UsageError, match=r"--table x.csv"):
        Sources([other, folder], tables=["x.csv"])


def test_what_is_wrong_with_a_table_is_said_where_the_folders_name_no_words(folder: Path) -> None:
    write_lines(folder / "clips.csv", "file,label,class", "wavs/1.wav,yes,positive")
    with pytest.raises(UsageError, match=r"label.*class"):
        list(Sources([folder]))


def test_a_folder_of_another_format_names_it_and_the_next_command(tmp_path: Path) -> None:
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"ARROW1")
    with pytest.raises(UsageError, match=r"arrow.*to_parquet"):
        list(Sources([tmp_path]))


def test_another_format_that_is_given_by_its_path_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UsageError, match="HDF5"):
        list(Sources([path]))


def test_the_case_manifest_has_the_same_speaker_for_all_words(tmp_path: Path) -> None:
    names = [f"{word}_{speaker}_nohash_0.wav" for word in ("yes", "no") for speaker in ("ab12", "cd34")]
    write_audio(tmp_path / "wavs", *names)
    rows = [{"audio_filepath": f"wavs/{name}", "command": name.split("_")[0], "duration": 0.1} for name in names]
    write_json_lines(tmp_path / "train_manifest.json", rows)
    assert {one.speaker for one in Sources([tmp_path])} == {"ab12", "cd34"}


def test_a_mistake_in_a_table_that_was_found_names_the_way_without_it(folder: Path) -> None:
    with (folder / "clips.csv").open("a") as file:
        file.write("wavs/4.wav,,s4\n")
    with pytest.raises(UsageError, match=r"clips.csv:5: no word.*--table none"):
        list(Sources([folder]))


def test_a_table_without_a_header_line_is_named(folder: Path) -> None:
    write_lines(folder / "clips.csv", "wavs/1.wav,yes", "wavs/2.wav,no")
    with pytest.raises(UsageError, match=r"clips.csv has no header line"):
        list(Sources([folder]))
