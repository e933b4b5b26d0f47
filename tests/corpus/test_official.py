"""The generated names have the numbers of the official corpora, which tests of tasks and fetching rely on."""

from __future__ import annotations

from collections import Counter

import pytest

from kws.corpus.source import speaker_from_name, split_by_hash
from tests.corpus import official


@pytest.mark.parametrize(
    ("version", "clips", "words"), [("v0.01", 64_721, 30), pytest.param("v0.02", 105_829, 35, marks=pytest.mark.slow)]
)
def test_names_have_the_numbers_of_the_official_corpus(version: str, clips: int, words: int) -> None:
    splits = official.names(version)
    everything = [name for names in splits.values() for name in names]
    counts = Counter(name.partition("/")[0] for name in everything)
    assert len(set(everything)) == clips
    assert counts == official.CORPORA[version].words
    assert len(counts) == words
    for split, names in splits.items():
        assert {split_by_hash(speaker_from_name(name)) for name in names} == {split}
        inside = sum(name.partition("/")[0] in official.COMMANDS for name in names)
        assert inside == official.CORPORA[version].commands[split]


def test_the_lists_name_the_clips_of_their_split() -> None:
    found = official.lists("v0.01")
    assert found["testing_list.txt"].splitlines() == list(official.names("v0.01")["test"])
    assert [len(text.splitlines()) for text in found.values()] == [6798, 6835]
