"""What folders mean: word, speaker and split where their names prove it, else a refusal with both readings."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from kws.corpus.layout import FolderCount, Layout, understand
from kws.corpus.name_pattern import NamePattern
from kws.errors import UsageError

SPEAKERS = ("0013b4bd", "1cd43fc9", "p225", "spk_03")
WORDS = ("yes", "no", "stop")
OWN_WORDS = ("licht", "lampe", "heizung")
PEOPLE = ("anna", "bert", "carla")


def grid(*levels: Iterable[str]) -> list[str]:
    folders = [""]
    for names in levels:
        folders = [f"{folder}/{name}".strip("/") for folder in folders for name in names]
    return folders


def layout_of(folders: Iterable[str], files: int = 5, **speakers: str) -> Layout:
    counts = {
        tuple(folder.split("/")): FolderCount(
            files, files * (folder in speakers.get("named", "")), speakers.get("speaker", "")
        )
        for folder in folders
    }
    return understand("SRC", counts)


def read(layout: Layout, folder: str) -> tuple[str, str, str] | None:
    found = layout.read(tuple(folder.split("/")))
    return found and (found.word, found.speaker, found.split)


@pytest.mark.parametrize(
    ("folders", "folder", "meant"),
    [
        (WORDS, "yes", ("yes", "", "")),
        (("yes", "no", "test"), "test", ("test", "", "")),
        (("train", "test", "yes"), "train", ("train", "", "")),
        (grid(["my words"], WORDS), "my words/yes", ("yes", "", "")),
        (grid(["data"], ["v1"], OWN_WORDS), "data/v1/licht", ("licht", "", "")),
        (grid(["train", "val", "test"], WORDS), "val/yes", ("yes", "", "val")),
        (grid(["Training", "Testing"], OWN_WORDS), "Testing/licht", ("licht", "", "Testing")),
        (grid(["train-clean-100", "dev-clean"], WORDS), "dev-clean/no", ("no", "", "dev-clean")),
        (grid(["corpus"], ["train", "test"], WORDS), "corpus/test/no", ("no", "", "test")),
        (grid(WORDS, ["train", "test"]), "no/test", ("no", "", "test")),
        ([*WORDS, *grid(["test"], WORDS)], "test/yes", ("yes", "", "test")),
        ([*WORDS, *grid(["test"], WORDS)], "yes", ("yes", "", "")),
        ([*grid(["train", "test"], WORDS), "readings"], "test/yes", ("yes", "", "test")),
        (grid(["train"], WORDS), "train/yes", ("yes", "", "")),
        (grid(SPEAKERS, WORDS), "p225/no", ("no", "p225", "")),
        (grid(SPEAKERS, OWN_WORDS), "spk_03/lampe", ("lampe", "spk_03", "")),
        (grid(WORDS, SPEAKERS), "no/p225", ("no", "p225", "")),
        (grid(OWN_WORDS, SPEAKERS), "lampe/p225", ("lampe", "p225", "")),
        (grid(PEOPLE, WORDS), "anna/no", ("no", "anna", "")),
        (grid(["train", "test"], SPEAKERS, WORDS), "test/p225/no", ("no", "p225", "test")),
        (grid(["session1", "session2"], WORDS), "session1/no", ("no", "", "")),
        (grid(WORDS, ["wav"]), "no/wav", ("no", "", "")),
        (grid(SPEAKERS, ["session1", "session2"], WORDS), "p225/session2/no", ("no", "p225", "")),
        ([*WORDS, "yes/more", "batch2/no"], "yes/more", ("yes", "", "")),
        ([*WORDS, "yes/more", "batch2/no"], "batch2/no", ("no", "", "")),
        (["numbers/one", "numbers/two", "answers/yes", "answers/no"], "numbers/one", ("one", "", "")),
        (WORDS, "yes/_background_noise_/cafe", ("_background_noise_", "", "")),
    ],
)
def test_folders_are_understood(folders: Iterable[str], folder: str, meant: tuple[str, str, str]) -> None:
    assert read(layout_of(folders), folder) == meant


@pytest.mark.parametrize("folder", ["_rejected_", ".trash/yes", "yes/_old_"])
def test_folders_that_begin_with_a_dot_or_an_underscore_hold_no_words(folder: str) -> None:
    assert read(layout_of(WORDS), folder) is None


def test_the_competition_layout_of_kaggle() -> None:
    layout = layout_of([*grid(["train"], ["audio"], WORDS), "test/audio"])
    assert read(layout, "train/audio/yes") == ("yes", "", "")
    assert read(layout, "test/audio") is None
    assert not layout.has_roles
    assert "5 recordings in test/audio/" in layout.notes[0]


def test_unlabelled_files_directly_in_a_split_folder_are_left_out() -> None:
    layout = layout_of([*grid(["train", "val"], WORDS), "test"])
    assert read(layout, "test") is None
    assert read(layout, "val/yes") == ("yes", "", "val")


@pytest.mark.parametrize(
    "folders",
    [
        grid(PEOPLE, OWN_WORDS),
        grid(["en", "de"], ["hello", "hallo"]),
        grid(OWN_WORDS, ["anna"]),
        [f"{word}/{word}_{person}" for word in OWN_WORDS for person in PEOPLE],
    ],
)
def test_two_possible_readings_are_refused_with_a_pattern_for_each(folders: list[str]) -> None:
    with pytest.raises(UsageError, match="SRC: ") as refused:
        layout_of(folders)
    patterns = re.findall(r"--names '([^']*)'", str(refused.value))
    fields = [NamePattern(pattern).parse(f"{folders[0]}/1") for pattern in patterns]
    first, last = folders[0].split("/")
    assert [found and (found.word, found.speaker) for found in fields] == [(last, first), (first, last)]


@pytest.mark.parametrize("folders", [["wavs"], ["corpus/clips"], ["train", "test"], ["data/train", "data/valid"]])
def test_recordings_without_word_folders_are_refused_with_patterns(folders: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        layout_of(folders)
    for pattern in re.findall(r"--names '([^']*)'", str(refused.value)):
        assert NamePattern(pattern).parse(f"{folders[0]}/yes_1")


@pytest.mark.parametrize("names", [("Actor_01", "Actor_02"), ("fold1", "fold2"), ("speaker 7", "Speaker 8")])
def test_folders_that_say_they_are_no_words_are_refused_with_patterns(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=names[0]) as refused:
        layout_of(grid(["train", "test"], ["audio"], names))
    patterns = re.findall(r"--names '([^']*)'", str(refused.value))
    fields = [NamePattern(pattern).parse(f"train/audio/{names[0]}/yes_1") for pattern in patterns]
    assert [found and found.word for found in fields] == ["yes", names[0]]


def test_folders_of_speakers_whose_words_are_elsewhere_are_refused_or_noted() -> None:
    with pytest.raises(UsageError, match="anna"):
        understand("SRC", {(person,): FolderCount(3, 3, person) for person in PEOPLE})
    assert any("speakers" in note for note in layout_of(grid(["data"], ["01", "02", "12"])).notes)
    assert layout_of(["0", "1", "10"]).notes == layout_of(["word01", "word02"]).notes == ()
    with pytest.raises(UsageError, match="which folder"):  # LibriSpeech: speaker and chapter
        layout_of(grid(["84", "26"], ["121123", "122949"]))


def test_a_folder_named_like_its_files_speaker_is_the_speaker() -> None:
    counts = {(person, word): FolderCount(3, 3, person) for person in PEOPLE for word in OWN_WORDS}
    assert understand("SRC", counts).word_level is None
    turned = {(word, person): count for (person, word), count in counts.items()}
    assert read(understand("SRC", turned), "lampe/anna") == ("lampe", "", "")


def test_what_is_noteworthy_is_noted_with_counts() -> None:
    assert layout_of(WORDS).notes == ()
    assert any("3 words" in note and "4 speakers" in note for note in layout_of(grid(SPEAKERS, WORDS)).notes)
    assert any("15 recordings" in note and "5 in" in note for note in layout_of([*WORDS, "a/yes"]).notes)
    assert any("5 recordings in no split" in note for note in layout_of([*grid(["train", "test"], WORDS), "yes"]).notes)
    counts = {("yes",): FolderCount(99), ("no",): FolderCount(1)}
    assert any("'yes' has 99 of 100" in note for note in understand("SRC", counts).notes)
