"""The clip length that `auto` takes from a corpus, and the notes on recordings that are longer or shorter."""

from __future__ import annotations

import numpy as np
import pytest

from kws.data import clip_lengths
from kws.data.clip_lengths import ClipLengths, auto_seconds
from kws.data.excerpt import Excerpt
from kws.data.index import Index, Split


def corpus(tones: Index, *seconds_of_words: list[float], test: tuple[float, ...] = ()) -> Index:
    """An index of the tones' words with recordings of these lengths in train and test."""

    def split(name: str, pairs: list[tuple[int, float]]) -> Split:
        columns = {
            "shard": np.zeros(len(pairs), np.uint32),
            "word": np.array([word for word, _ in pairs], np.uint32),
            "samples": np.array([round(16000 * s) for _, s in pairs], np.uint32),
        }
        return Split(name, (), columns, np.zeros((0, 3)))

    train = [(word, s) for word, seconds in enumerate(seconds_of_words) for s in seconds]
    splits = {"train": split("train", train), "test": split("test", [(0, s) for s in test])}
    return Index(tones.root, tones.words, "id", splits)


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ([[0.3, 0.4], [0.2]], 1.0),
        ([[1.0] * 50, [1.0]], 1.0),
        ([[1.0, 1.004]], 1.0),  # resampled: a few samples more
        ([[1.0, 1.02]], 1.1),
        ([[1.3, 3.3], [2.0]], 3.3),
        ([[1.0] * 199 + [9.0]], 1.0),  # one recording among many
        ([[1.0] * 1000, [2.45] * 3], 2.5),  # a rare word is not cut
        ([[7.0] * 5], 5.0),
        ([[]], 1.0),
    ],
)
def test_auto_is_long_enough_for_most_recordings_of_every_word(
    tones: Index, seconds: list[list[float]], wanted: float
) -> None:
    assert auto_seconds(corpus(tones, *seconds)) == wanted


def test_nothing_is_noted_where_clips_of_a_second_fit(tones: Index) -> None:
    found = ClipLengths.of(tones, clip_lengths.auto_excerpt(tones))
    assert (found.longer, found.shorter, found.notes()) == (0, 0, [])
    assert ClipLengths.of(corpus(tones, [1.0] * 9 + [0.6]), Excerpt(16000)).notes() == []


def test_longer_recordings_are_counted_in_every_split_and_auto_is_offered(tones: Index) -> None:
    found = ClipLengths.of(corpus(tones, [1.0, 3.3, 2.0], test=(2.0, 0.5)), Excerpt(16000))
    assert (found.clips, found.longer, found.shorter, found.longest_s) == (5, 3, 1, 3.3)
    (note,) = found.notes()
    for part in ("60 %", " 5 ", "3.3 s", "the loudest 1 s", "--set data.clip_seconds=auto would take 3.3"):
        assert part in note
    nearly_all = ClipLengths.of(corpus(tones, [3.0] * 300 + [1.0]), Excerpt(16000))
    assert "99.7 %" in nearly_all.notes()[0], "100 % means all"
    assert "the first 1 s" in ClipLengths.of(corpus(tones, [3.0]), Excerpt(16000, "start")).notes()[0]
    assert found.facts() | {"auto_s": 0} == {
        "clip_seconds": 1.0,
        "auto_s": 0,
        "clips": 5,
        "longer": 3,
        "shorter": 1,
        "half_empty": 0,
        "longest_s": 3.3,
    }


def test_clips_that_are_mostly_zeros_are_noted(tones: Index) -> None:
    (note,) = ClipLengths.of(corpus(tones, [0.4] * 3 + [1.0]), Excerpt(32000)).notes()
    assert "75 %" in note
    assert "auto would take 1" in note


def test_longer_clips_than_a_second_are_always_said(tones: Index) -> None:
    (note,) = ClipLengths.of(corpus(tones, [2.0, 2.0]), Excerpt(32000)).notes()
    assert "clips of 2 s (data.clip_seconds = auto)" in note


def test_the_same_is_not_said_twice(tones: Index) -> None:
    few = ClipLengths.of(corpus(tones, [2.0] * 200 + [4.5]), Excerpt(32000))
    (line,) = few.lines()
    assert "longest 4.5 s" in line
    assert len(ClipLengths.of(corpus(tones, [2.0]), Excerpt(16000)).lines()) == 2, "auto would use more"
