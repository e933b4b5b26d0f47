"""What was spoken: label tracks, folders of them, tables, and a line for every label that is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from praatio import textgrid

from kws.errors import UsageError
from kws.streaming import truth
from kws.streaming.counting import Spoken
from tests.streaming.made_scores import CLASSES

TRACK = "1.5\t2.0\tyes\n0,5\t0,9\tno\n3.0\t3.4\tmaybe\n4.0\t4.4\tmaybe\n5\t5.2\tsilence\n6\t6.1\t\n7\t7\tyes\n"


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "audio" / name for name in ("day1.flac", "day2.flac")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return paths


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_label_track_of_one_recording(tmp_path: Path, recordings: list[Path]) -> None:
    found = truth.read(write(tmp_path / "labels.txt", TRACK), recordings[:1], CLASSES)
    assert found.spoken(recordings[0], 10.0) == [
        Spoken("no", 0.5, 0.9), Spoken("yes", 1.5, 2.0), Spoken("yes", 7.0, 7.0),
    ]  # fmt: skip
    empty, other, points = found.notes
    assert "1 labels without a word" in empty
    assert "3 labels of 2 words" in other
    assert "maybe 2, silence 1" in other
    assert "1 labels are points" in points


def test_a_textgrid(tmp_path: Path, recordings: list[Path]) -> None:
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("words", [(0.5, 0.9, "yes")], 0, 10))
    grid.save(str(tmp_path / "audio" / "day1.TextGrid"), format="long_textgrid", includeBlankSpaces=True)
    found = truth.read(tmp_path / "audio", recordings[:1], CLASSES)
    assert found.spoken(recordings[0], 10.0) == [Spoken("yes", 0.5, 0.9)]


def test_a_folder_of_tracks_says_which_recordings_have_none(tmp_path: Path, recordings: list[Path]) -> None:
    write(tmp_path / "day1.txt", "1\t2\tyes\n")
    found = truth.read(tmp_path, recordings, CLASSES)
    assert [found.spoken(path, 10.0) for path in recordings] == [[Spoken("yes", 1, 2)], []]
    (note,) = found.notes
    assert "1 recordings (day2.flac)" in note
    with pytest.raises(UsageError, match=r"day1\.txt"):
        truth.read(tmp_path / "audio", recordings, CLASSES)


def test_recordings_below_the_folder_have_their_tracks_beside_them(tmp_path: Path) -> None:
    recordings = [tmp_path / "in" / name / "day.flac" for name in ("a", "b")]
    for number, path in enumerate(recordings):
        path.parent.mkdir(parents=True)
        write(path.with_suffix(".txt"), f"{number}\t{number + 1}\tyes\n")
    found = truth.read(tmp_path / "in", recordings, CLASSES)
    assert [found.spoken(path, 10.0)[0].start_s for path in recordings] == [0, 1]
    write(tmp_path / "day.txt", "1\t2\tyes\n")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "day.txt", "1\t2\tyes\n")
    with pytest.raises(UsageError, match=r"day\.txt"):
        truth.read(tmp_path / "out", recordings, CLASSES)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "names", [("audio/day1.flac", "day2.flac"), ("day1", "audio/day2"), ("./audio/day1.flac", "day2")]
)
def test_a_table_of_many_recordings(
    tmp_path: Path, recordings: list[Path], separator: str, names: tuple[str, str]
) -> None:
    rows = [
        ("file", "word", "start", "end"),
        (names[0], "yes", "1.0", "1.5"),
        (names[1], "no", "0", "0.5"),
        (names[0], "no", "0.1", "0.4"),
    ]
    table = write(tmp_path / "labels.csv", "\n".join(separator.join(row) for row in rows))
    found = truth.read(table, recordings, CLASSES)
    assert found.spoken(recordings[0], 10.0) == [Spoken("no", 0.1, 0.4), Spoken("yes", 1.0, 1.5)]
    assert found.spoken(recordings[1], 10.0) == [Spoken("no", 0.0, 0.5)]


def test_a_table_with_other_recordings_and_a_duration(tmp_path: Path, recordings: list[Path]) -> None:
    table = write(
        tmp_path / "labels.tsv", "file\tword\tstart\tduration\nday1.flac\tyes\t1\t0.5\nday9.flac\tyes\t1\t0.5\n"
    )
    found = truth.read(table, recordings, CLASSES)
    assert found.spoken(recordings[0], 10.0) == [Spoken("yes", 1.0, 1.5)]
    assert any("1 labels of 1 other recordings" in note for note in found.notes)
    assert any("day2.flac" in note for note in found.notes)
    with pytest.raises(UsageError, match=r"day9|day1"):
        truth.read(table, [tmp_path / "night.flac"], CLASSES)


def test_all_mistakes_of_a_table_are_named(tmp_path: Path, recordings: list[Path]) -> None:
    table = write(
        tmp_path / "labels.csv",
        "file,word,start,end\nday1.flac,yes,2,1\nday1.flac,yes,x,1\nday1.flac,,1,2\nday1.flac,yes,1,\n",
    )
    with pytest.raises(UsageError) as error:
        truth.read(table, recordings, CLASSES)
    assert [line.split(":")[1] for line in str(error.value).splitlines()] == ["2", "3", "5"]


def test_a_label_after_the_end_of_its_recording_is_refused(tmp_path: Path, recordings: list[Path]) -> None:
    found = truth.read(write(tmp_path / "labels.txt", "1\t2\tyes\n9.9\t10.04\tno\n"), recordings[:1], CLASSES)
    assert len(found.spoken(recordings[0], 10.0)) == 2
    with pytest.raises(UsageError, match=r"labels\.txt:2.* 9\.00 s"):
        found.spoken(recordings[0], 9.0)


def test_a_misspelt_word_is_named(tmp_path: Path, recordings: list[Path]) -> None:
    found = truth.read(write(tmp_path / "labels.txt", "1\t2\tYes\n"), recordings[:1], CLASSES)
    assert "did you mean yes" in found.notes[0]


def test_one_track_for_many_recordings_is_refused(tmp_path: Path, recordings: list[Path]) -> None:
    with pytest.raises(UsageError, match="2 recordings"):
        truth.read(write(tmp_path / "labels.txt", TRACK), recordings, CLASSES)
    with pytest.raises(UsageError, match="nothing"):
        truth.read(tmp_path / "nothing.txt", recordings[:1], CLASSES)


def test_labels_of_the_microphone_may_be_given_by_the_name_of_the_pipe(tmp_path: Path) -> None:
    table = write(tmp_path / "labels.csv", "file,word,start,end\n-,yes,1,2\n")
    assert truth.read(table, [Path("-")], CLASSES).spoken(Path("-"), 10.0) == [Spoken("yes", 1.0, 2.0)]
