"""Common Voice: words in lower case without punctuation; sentences are no keywords; splits where they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.errors import UsageError
from tests.corpus.tables.tables_of_tests import Read, write_audio, write_lines

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\tdown_votes\tage\tgender\tlocale"


def write_table(path: Path, *rows: tuple[str, str, str], ending: str = "") -> Path:
    """A TSV as Common Voice writes it, of (speaker, path, sentence)."""
    lines = [f"{speaker}\t{name}{ending}\t\t{text}\t2\t0\t\t\ten" for speaker, name, text in rows]
    return write_lines(path, HEADER, *lines)


ROWS = (("anna", "1.wav", "Yes."), ("bert", "2.wav", "yes"), ("carl", "3.wav", "“No”"), ("dora", "4.wav", '"No" '))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    write_audio(tmp_path, *(f"clips/{name}" for _, name, _ in ROWS))
    write_table(tmp_path / "validated.tsv", *ROWS)
    write_table(tmp_path / "invalidated.tsv", ("emil", "1.wav", "go"))
    write_lines(tmp_path / "clip_durations.tsv", "clip\tduration[ms]", "1.wav\t1000")
    return tmp_path


def test_validated_clips_are_read_as_words_without_case_and_punctuation(release: Path) -> None:
    found = Read(release)
    assert found.names == ["no/3.wav", "no/4.wav", "yes/1.wav", "yes/2.wav"]
    assert found.speakers["yes/1.wav"] == "anna"
    assert {clip.path for clip in found.clips} == {f"clips/{name}" for _, name, _ in ROWS}
    assert "Common Voice" in found.notes


def test_splits_are_used_where_they_list_nearly_all_clips(release: Path) -> None:
    write_table(release / "train.tsv", *ROWS[:2])
    write_table(release / "dev.tsv", ROWS[2])
    assert set(Read(release).splits.values()) == {""}  # 3 of 4 rows
    write_table(release / "test.tsv", ROWS[3])
    assert Read(release).splits == {
        "yes/1.wav": "train", "yes/2.wav": "train", "no/3.wav": "valid", "no/4.wav": "test",
    }  # fmt: skip


def test_tables_that_are_named_are_read(release: Path) -> None:
    write_table(release / "train.tsv", *ROWS[:2])
    write_table(release / "test.tsv", ROWS[3])
    found = Read(release, ["train.tsv", "test.tsv"])
    assert found.splits == {"yes/1.wav": "train", "yes/2.wav": "train", "no/4.wav": "test"}


def test_old_releases_have_no_endings_in_their_paths(tmp_path: Path) -> None:
    write_audio(tmp_path, "clips/1.mp3")
    assert Read(write_table(tmp_path / "validated.tsv", ("anna", "1", "Yes"))).names == ["yes/1.mp3"]


def test_clips_that_were_not_downloaded_are_left_out_without_a_fault(release: Path) -> None:
    (release / "clips" / "2.wav").unlink()
    found = Read(release)
    assert len(found.clips) == 3
    assert [(row.audio, row.is_fault) for row in found.left_out] == [("2.wav", False)]


def test_a_damaged_row_is_left_out_as_a_fault_with_its_line(release: Path) -> None:
    with (release / "validated.tsv").open("a") as file:
        file.write("anna\t1.wav\t\tone\ttwo\tmany\tvalues\tin\tthis\tline\tof\tit\n")
    found = Read(release)
    assert [(row.where, row.is_fault) for row in found.left_out] == [(f"{release}/validated.tsv:6", True)]


def test_sentences_among_words_are_left_out(release: Path) -> None:
    write_table(release / "validated.tsv", *ROWS, ("anna", "5.wav", "This is a whole sentence/line."))
    found = Read(release)
    assert len(found.clips) == 4
    assert [(row.audio, row.is_fault) for row in found.left_out] == [("5.wav", False)]


@pytest.mark.parametrize("text", ["She reads a whole book a day.", "彼女は毎日本を一冊読んでいます。"])
def test_a_release_of_sentences_is_refused_and_says_what_it_is(release: Path, text: str) -> None:
    write_table(release / "validated.tsv", *ROWS, *(("anna", f"{number}.wav", text) for number in range(5)))
    with pytest.raises(UsageError, match=r"validated.tsv: 5 of its 9 rows are sentences"):
        Read(release)
