"""Where the clips of a file are."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from kws.data.index import Index
from kws.errors import UsageError
from kws.streaming.mixing.placement import EDGE, Placed, file_samples, place
from kws.streaming.mixing.settings import MixSettings
from tests.streaming.mixing.test_clips import draws

SETTINGS = MixSettings(hours=0.25, file_minutes=5, words_per_hour=200, distractors_per_hour=80, gap_s=1.5)


def placed(corpus: Index, settings: MixSettings, file: int) -> list[Placed]:
    return place(settings, draws(corpus, ("go", "stop")), draws(corpus, ("yes",)), file)


def test_clips_are_apart_by_the_gap_and_not_at_the_ends(words: Index) -> None:
    found = [placed(words, SETTINGS, file) for file in range(SETTINGS.num_files)]
    assert SETTINGS.num_files == 3
    assert sum(item.is_target for items in found for item in items) == 50
    assert sum(not item.is_target for items in found for item in items) == 20
    for items in found:
        assert items[0].at >= EDGE
        assert items[-1].end <= file_samples(SETTINGS) - EDGE
        assert all(later.at - item.end >= 24_000 for item, later in itertools.pairwise(items))
    numbers = [item.number for items in found for item in items if item.is_target]
    assert sorted(numbers) == list(range(50))


def test_a_file_depends_on_seed_and_number_alone(words: Index) -> None:
    assert placed(words, SETTINGS, 2) == placed(words, SETTINGS, 2)
    other = dataclasses.replace(SETTINGS, seed=1)
    assert [item.at for item in placed(words, other, 2)] != [item.at for item in placed(words, SETTINGS, 2)]


def test_more_clips_than_fit_are_refused_with_a_number_that_fits(words: Index) -> None:
    too_many = dataclasses.replace(SETTINGS, words_per_hour=2500)
    with pytest.raises(UsageError, match="--words-per-hour 2500") as caught:
        placed(words, too_many, 0)
    most = int(str(caught.value).partition("at most about ")[2].split()[0])
    placed(words, dataclasses.replace(SETTINGS, words_per_hour=most - 80), 0)


def test_a_file_without_words_and_the_shortest_one(words: Index) -> None:
    assert placed(words, dataclasses.replace(SETTINGS, words_per_hour=0, distractors_per_hour=0), 0) == []
    short = dataclasses.replace(SETTINGS, hours=6 / 3600, words_per_hour=600, distractors_per_hour=0)
    assert len(placed(words, short, 0)) == 1


@pytest.mark.parametrize(
    ("choice", "option"),
    [
        ({"split": "tests"}, "--split"), ({"hours": 0.0005}, "--hours"), ({"hours": float("nan")}, "--hours"),
        ({"words_per_hour": -1}, "--words-per-hour"), ({"gap_s": -1}, "--gap"), ({"snr_db": (20, 5)}, "--snr"),
        ({"background_db": (-20, 0)}, "--level"), ({"rooms": 2}, "--rooms"), ({"room_seconds": (0, 1)}, "--reverb"),
        ({"file_minutes": 0}, "--minutes"), ({"distractors_per_hour": -1}, "--distractors"),
    ],
)  # fmt: skip
def test_impossible_choices_are_refused_by_their_option(choice: dict[str, object], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        dataclasses.replace(SETTINGS, **choice)  # type: ignore[arg-type]
