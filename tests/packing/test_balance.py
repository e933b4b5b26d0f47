"""Balancing splits over words: each speaker in one split, in any order of the rows, nothing empty where avoidable."""

from __future__ import annotations

import collections
import random

import hypothesis.strategies as st
from hypothesis import given, settings

from kws.corpus.source import split_by_hash
from kws.packing.balance import NEEDED, Shares, UnitWord, find_moves

SHARES = Shares(10.0, 10.0)
Corpus = dict[str, dict[str, int]]
"""Speaker -> word -> clips."""

speakers = st.text("abcdefghij0123456789", min_size=1, max_size=6)
words = st.sampled_from(["yes", "no", "go", "stop"])
corpora = st.dictionaries(speakers, st.dictionaries(words, st.integers(1, 50), min_size=1), min_size=1, max_size=14)


def rows_of(corpus: Corpus, splits: dict[str, str], fixed: set[str] = frozenset()) -> list[UnitWord]:  # type: ignore[assignment]
    return [
        UnitWord(speaker, word, splits[speaker], clips, speaker in fixed)
        for speaker, said in corpus.items()
        for word, clips in said.items()
    ]


def balanced(rows: list[UnitWord], kept: dict[tuple[str, str], int], shares: Shares = SHARES) -> dict[str, str]:
    """The moves, where the corpus has the clips `kept` already."""
    counts = collections.Counter(kept)
    for row in rows:
        counts[row.word, row.split] += row.clips
    return find_moves(rows, counts, shares, ":memory:")


def hashed(corpus: Corpus) -> dict[str, str]:
    return {speaker: split_by_hash(speaker) for speaker in corpus}


def cells(corpus: Corpus, splits: dict[str, str]) -> set[tuple[str, str]]:
    return {(word, splits[speaker]) for speaker, said in corpus.items() for word in said}


def moves_of(corpus: Corpus, **more: object) -> dict[str, str]:
    return balanced(rows_of(corpus, hashed(corpus), **more), {})  # type: ignore[arg-type]


@settings(deadline=None, max_examples=30)
@given(corpora, st.randoms(use_true_random=False))
def test_moves_do_not_depend_on_the_order_and_never_make_it_worse(corpus: Corpus, rng: random.Random) -> None:
    rows = rows_of(corpus, hashed(corpus))
    moves = balanced(rows, {})
    assert set(moves) <= set(corpus)
    assert balanced(rng.sample(rows, len(rows)), {}) == moves
    before, after = hashed(corpus), hashed(corpus) | moves
    present = {word for said in corpus.values() for word in said}
    assert {word for word, split in cells(corpus, after) if split == "train"} == present, "each word can be trained"
    filled = {(word, split) for word in present for split in NEEDED}
    if filled <= cells(corpus, before):
        assert moves == {}, "the hash suffices"


@settings(deadline=None, max_examples=20)
@given(st.sets(speakers, min_size=1, max_size=14), st.sets(words, min_size=1))
def test_where_all_say_every_word_three_speakers_fill_every_split(names: set[str], said: set[str]) -> None:
    corpus = {name: dict.fromkeys(said, 3) for name in names}
    splits = hashed(corpus) | moves_of(corpus)
    assert set(splits.values()) == set(NEEDED[: len(names)])


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(speakers, words, min_size=1, max_size=30))
def test_units_of_a_single_word_fill_all_that_can_be_filled(word_of: dict[str, str]) -> None:
    corpus = {unit: {word: 1} for unit, word in word_of.items()}
    after = cells(corpus, hashed(corpus) | moves_of(corpus))
    for word, units in collections.Counter(word_of.values()).items():
        assert sum((word, split) in after for split in NEEDED) == min(3, units)
        assert (word, "train") in after


@settings(deadline=None, max_examples=20)
@given(corpora, st.data())
def test_speakers_that_are_fixed_stay(corpus: Corpus, data: st.DataObject) -> None:
    fixed = data.draw(st.sets(st.sampled_from(sorted(corpus))))
    assert not fixed & set(moves_of(corpus, fixed=fixed))


def test_clips_of_the_corpus_that_is_added_to_count() -> None:
    corpus = {"a": {"yes": 1}}
    kept = {("yes", "train"): 5, ("yes", "valid"): 1}
    assert balanced(rows_of(corpus, {"a": "train"}), kept) == {"a": "test"}
    assert balanced(rows_of(corpus, {"a": "test"}), kept) == {}


def test_a_small_speaker_moves_rather_than_the_one_with_most_clips() -> None:
    corpus = {"small": {"yes": 3}, "large": {"yes": 500}, "other": {"yes": 40}}
    splits = dict.fromkeys(corpus, "train")
    moves = balanced(rows_of(corpus, splits), {})
    assert set(moves.values()) == {"valid", "test"}
    assert "large" not in moves


def test_a_split_that_is_closed_or_has_no_share_gets_nothing() -> None:
    corpus = {name: {"yes": 1} for name in "abcdef"}
    rows = rows_of(corpus, dict.fromkeys(corpus, "train"))
    assert balanced(rows, {}, Shares(0.0, 10.0, {"test"})) == {}
