"""Tables are found in folders by their contents; several that may not belong together are refused; others are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.corpus.source import Sources
from kws.corpus.tables import unsupported
from kws.errors import UsageError
from tests.corpus.tables.tables_of_tests import Read, write_audio, write_json_lines, write_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_audio(tmp_path, "wavs/1.wav", "wavs/2.wav", "wavs/3.wav", "train/1.wav", "test/1.wav")
    return tmp_path


def test_files_that_are_no_tables_of_recordings_are_not_taken_for_some(folder: Path) -> None:
    write_lines(folder / "README.csv", "word,count", "yes,3")
    write_lines(folder / "config.json", '{"word": "yes"}')
    write_lines(folder / "words.tsv", "yes\tno")
    (folder / "empty.csv").touch()
    (folder / "binary.tsv").write_bytes(bytes(range(256)))
    write_lines(folder / "wavs" / "wav.scp", "")
    found = Read(folder)
    assert (found.tables, found.notes) == ([], "")


def test_a_table_of_recordings_that_are_not_there_is_not_read_and_said(folder: Path) -> None:
    write_lines(folder / "sample_submission.csv", "fname,label", "clip_1.wav,silence")
    found = Read(folder)
    assert found.tables == []
    assert "sample_submission.csv" in found.notes


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_audiofolders_metadata_in_folders_of_splits_are_read_together(folder: Path, ending: str) -> None:
    for split in ("train", "test"):
        if ending == "csv":
            lines = ["file_name,label,speaker_id", f"1.wav,yes,{split}"]
            write_lines(folder / split / "metadata.csv", *lines, encoding="utf-8-sig")
        else:
            rows = [{"file_name": "1.wav", "transcription": "yes", "speaker_id": split}]
            write_json_lines(folder / split / "metadata.jsonl", rows)
    found = Read(folder)
    assert found.splits == {"yes/train/1.wav": "train", "yes/test/1.wav": "test"}
    assert found.speakers == {"yes/train/1.wav": "train", "yes/test/1.wav": "test"}


def test_tables_that_may_not_belong_together_are_refused_and_can_be_named(folder: Path) -> None:
    write_lines(folder / "a.csv", "path,word", "wavs/1.wav,yes")
    write_lines(folder / "b.csv", "path,word", "wavs/2.wav,yes")
    with pytest.raises(UsageError, match=r"a.csv, b.csv.*--table"):
        Read(folder)
    assert Read(folder, ["a.csv"]).names == ["yes/1.wav"]
    assert Read(folder, ["a.csv", "b.csv"]).names == ["yes/1.wav", "yes/2.wav"]
    assert Read(folder, ["none"]).tables == []
    with pytest.raises(UsageError, match=r"--table c.csv.*a.csv, b.csv"):
        Read(folder, ["c.csv"])


def test_a_table_can_be_named_by_its_path_or_name_in_a_lower_folder(folder: Path) -> None:
    write_lines(folder / "lists" / "a.csv", "path,word", "../wavs/1.wav,yes")
    assert Read(folder, ["lists/a.csv"]).names == Read(folder, ["a.csv"]).names == ["yes/1.wav"]


def test_the_same_table_in_two_formats_is_read_once(folder: Path) -> None:
    write_lines(folder / "metadata.csv", "file_name,label", "wavs/1.wav,yes")
    write_json_lines(folder / "metadata.jsonl", [{"file_name": "wavs/1.wav", "label": "yes"}])
    found = Read(folder)
    assert found.names == ["yes/1.wav"]
    assert "metadata.jsonl" in found.notes


def test_ambiguous_columns_are_said_where_the_table_is_found(folder: Path) -> None:
    write_lines(folder / "a.csv", "file,label,class", "wavs/1.wav,yes,positive")
    found = Read(folder)
    assert "label" in found.problem
    assert "class" in found.problem


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("cuts_train.jsonl.gz", "Lhotse"), ("data-00000-of-00002.arrow", "to_parquet"), ("a.tfrecord", "TFRecord")),
        *(("a.tfrecord-00000-of-00010", "TFRecord"), ("a.H5", "HDF5"), ("a.npz", "NumPy"), ("a.pkl", "pickle")),
        *(("a.mat", "MATLAB"), ("data.mdb", "LMDB"), ("a.sqlite", "SQLite"), ("a.xlsx", "CSV"), ("a.csv.gz", "unpack")),
    ],
)
def test_other_formats_are_named_with_what_to_do(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"\1\2")
    found = Read(tmp_path)
    assert found.tables == []
    assert name in found.problem
    assert kind in found.problem


def test_ordinary_files_are_no_other_format() -> None:
    assert not unsupported.describe(["1.wav", "README.md", "yes/2.flac", "validation_list.txt", "LICENSE"])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("list.csv", ["wavs/1.wav,yes", "wavs/2.wav,no"]),
        ("liste.csv", ["Datei;Wort", "wavs/1.wav;yes"]),
        ("labels.json", ['{"wavs/1.wav": "yes",', '"wavs/2.wav": "no"}']),
    ],
)
def test_files_that_list_recordings_in_an_unknown_form_are_noted_and_decide_against_one_folder(
    folder: Path, name: str, lines: list[str]
) -> None:
    found = Read(write_lines(folder / name, *lines).parent)
    assert found.tables == []
    assert name in found.notes
    write_audio(folder / "other", "a/1.wav", "a/2.wav")
    write_lines(folder / "other" / name, *lines)
    with pytest.raises(UsageError, match=f"all recordings.*{name}"):
        list(Sources([folder / "other"]))
    assert len(list(Sources([folder / "other"], tables=["none"]))) == 2
