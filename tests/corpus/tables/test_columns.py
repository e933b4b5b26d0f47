"""The usual names of columns are known; two that could both be the word are refused."""

from __future__ import annotations

import itertools

import pytest

from kws.corpus.tables import columns

ROW = {
    "path": "a.wav", "file": "a.wav", "word": "yes", "label": "positive", "class": "other", "sentence": "Yes.",
    "speaker": "anna",
}  # fmt: skip


@pytest.mark.parametrize(
    ("audio", "word", "speaker", "split"),
    [*itertools.zip_longest(
        ["file", "filename", "file_name", "path", "audio", "audio_path", "audio_filepath", "wav"],
        ["word", "label", "class", "sentence", "text", "command", "keyword", "transcript"],
        ["speaker", "speaker_id", "client_id"], ["split", "set", "subset"], fillvalue="",
    )],
)  # fmt: skip
def test_usual_names_are_read(audio: str, word: str, speaker: str, split: str) -> None:
    names = [name for name in ("x", audio, word, speaker, split) if name]
    found = columns.choose(names, [{audio: "a.wav", word: "yes"}])
    assert found
    assert (found.audio, found.word, found.speaker, found.split) == (audio, word, speaker, split)
    assert all(name in found.described for name in (audio, word))


def test_the_documented_names_need_no_note() -> None:
    found = columns.choose(["path", "word", "speaker", "split", "start", "end"], [])
    assert found
    assert not found.described


@pytest.mark.parametrize("names", [("path", "speaker"), ("word", "speaker"), ("url", "count")])
def test_a_table_without_audio_or_words_is_none(names: tuple[str, ...]) -> None:
    assert columns.choose(names, []) is None


def test_the_audio_is_the_column_with_names_of_audio_files() -> None:
    found = columns.choose(["path", "audio", "word"], [{"path": "row 1", "audio": "a/1.flac", "word": "yes"}])
    assert found
    assert found.audio == "audio"


@pytest.mark.parametrize(
    ("names", "wanted", "is_text"),
    [
        (("path", "sentence", "label", "word"), "word", False),
        (("path", "sentence", "label"), "label", False),
        (("path", "sentence"), "sentence", True),
    ],
)
def test_words_come_before_labels_and_labels_before_sentences(
    names: tuple[str, ...], wanted: str, is_text: bool
) -> None:
    found = columns.choose(names, [ROW])
    assert found
    assert (found.word, found.is_text) == (wanted, is_text)


def test_numbers_give_way_to_words() -> None:
    found = columns.choose(["path", "label", "text"], [{"path": "a.wav", "label": "3", "text": "left"}])
    assert found
    assert found.word == "text"
    only = columns.choose(["path", "label"], [{"path": "a.wav", "label": "3"}])
    assert only
    assert only.word == "label"


def test_two_columns_that_could_both_be_the_word_are_refused_unless_they_agree() -> None:
    with pytest.raises(ValueError, match=r"label .*class "):
        columns.choose(["path", "label", "class"], [ROW])
    found = columns.choose(["path", "label", "class"], [{"path": "a.wav", "label": "yes", "class": "yes"}])
    assert found
    assert found.word == "label"
