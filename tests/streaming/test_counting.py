"""Events against words spoken: counts worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.errors import UsageError
from kws.streaming.counting import RULES, CountingRules, Outcome, Spoken, match, summarise
from kws.streaming.events import Event

KWS = RULES["kws"]
YES = Spoken("yes", 2.0, 2.6)


def outcome(*events: tuple[float, str], spoken: tuple[Spoken, ...] = (YES,), rules: CountingRules = KWS) -> Outcome:
    return match([Event(time_s, word, 0.9) for time_s, word in events], spoken, 3600.0, rules)


def counts(found: Outcome) -> tuple[int, int, int, int]:
    """Hits, misses, false accepts, events that are not counted."""
    return len(found.hits), len(found.misses), len(found.false_accepts), len(found.not_counted)


@pytest.mark.parametrize(
    ("time_s", "expected"),
    [
        (1.99, (0, 1, 1, 0)),  # before the word
        (2.0, (1, 0, 0, 0)),  # at its start
        (2.6, (1, 0, 0, 0)),
        (3.1, (1, 0, 0, 0)),  # 0.5 s after its end
        (3.11, (0, 1, 0, 1)),
        (3.6, (0, 1, 0, 1)),  # 1.0 s after its end
        (3.61, (0, 1, 1, 0)),
    ],
)
def test_one_event(time_s: float, expected: tuple[int, int, int, int]) -> None:
    assert counts(outcome((time_s, "yes"))) == expected


def test_a_second_event_of_the_word_is_not_counted_up_to_one_second_after_it() -> None:
    assert counts(outcome((2.5, "yes"), (3.6, "yes"))) == (1, 0, 0, 1)
    assert counts(outcome((2.5, "yes"), (3.7, "yes"))) == (1, 0, 1, 0)


def test_another_word_is_a_false_accept_wherever_it_comes() -> None:
    assert counts(outcome((2.5, "no"))) == (0, 1, 1, 0)
    assert counts(outcome((2.5, "no"), (2.6, "yes"))) == (1, 0, 1, 0)
    assert counts(outcome((3.5, "no"))) == (0, 1, 1, 0)


def test_two_words_need_two_events() -> None:
    pair = (YES, Spoken("yes", 2.8, 3.2))
    assert counts(outcome((2.5, "yes"), spoken=pair)) == (1, 1, 0, 0)
    assert counts(outcome((2.5, "yes"), (3.3, "yes"), spoken=pair)) == (2, 0, 0, 0)
    # Both events are near both words: the one that ends first gets the first event.
    both = outcome((2.9, "yes"), (3.0, "yes"), spoken=pair)
    assert [(hit.event.time_s, hit.spoken.start_s) for hit in both.hits] == [(2.9, 2.0), (3.0, 2.8)]


def test_overlapping_and_nested_words_are_each_hit() -> None:
    nested = (Spoken("yes", 1.0, 4.0), Spoken("yes", 2.0, 2.2))
    assert counts(outcome((2.1, "yes"), (3.8, "yes"), spoken=nested)) == (2, 0, 0, 0)
    mixed = (Spoken("yes", 1.0, 2.0), Spoken("no", 1.5, 2.5))
    assert counts(outcome((2.0, "yes"), (2.4, "no"), spoken=mixed)) == (2, 0, 0, 0)
    assert counts(outcome((2.0, "no"), (2.4, "yes"), spoken=mixed)) == (2, 0, 0, 0)


def test_a_label_that_is_a_point_is_hit_after_it() -> None:
    point = (Spoken("yes", 2.0, 2.0),)
    assert counts(outcome((2.0, "yes"), spoken=point)) == counts(outcome((2.5, "yes"), spoken=point)) == (1, 0, 0, 0)


def test_times_that_are_equal_but_for_rounding_are_equal() -> None:
    assert 1.1 + 2.2 > 2.8 + 0.5
    assert counts(outcome((1.1 + 2.2, "yes"), spoken=(Spoken("yes", 2.0, 2.8),))) == (1, 0, 0, 0)
    assert counts(outcome((0.3, "yes"), spoken=(Spoken("yes", 0.1 + 0.2, 0.9),))) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("preset", "expected"), [("mlperf-tiny", (0, 1, 0, 1)), ("wekws", (1, 0, 0, 0)), ("picovoice", (0, 1, 1, 0))]
)
def test_presets_count_a_late_event_as_their_tools_do(preset: str, expected: tuple[int, int, int, int]) -> None:
    assert counts(outcome((3.4, "yes"), rules=RULES[preset])) == expected


def test_the_example_of_the_documentation() -> None:
    spoken = (Spoken("yes", 2.0, 2.6), Spoken("yes", 9.0, 9.5), Spoken("no", 5.0, 5.4))
    events = [(2.5, "yes"), (3.5, "yes"), (5.3, "yes"), (6.3, "no"), (9.9, "yes"), (20.0, "no")]
    found = match([Event(time_s, word, 0.9) for time_s, word in events], spoken, 60.0, KWS)
    assert counts(found) == (2, 1, 2, 2)
    row = summarise([found], ["yes", "no"])
    assert row["missed_interval95"] == pytest.approx([0.06, 0.79], abs=0.005)
    assert row["per_hour_interval95"] == pytest.approx([14.5, 433.5], abs=0.1)
    assert (row["latency_median_s"], row["latency_95_s"]) == (pytest.approx(-0.1), pytest.approx(0.4))


def test_hours_are_all_audio_or_what_is_outside_the_words() -> None:
    spoken = (YES, Spoken("yes", 3.0, 3.4), Spoken("no", 3599.5, 3600.0))
    assert outcome(spoken=spoken).seconds == 3600.0
    # 2.0 to 4.4 s, and the last half second.
    assert outcome(spoken=spoken, rules=RULES["wekws"]).seconds == pytest.approx(3600 - 2.4 - 0.5)


def test_rules_whose_times_contradict_each_other_are_refused() -> None:
    with pytest.raises(UsageError, match="hit_s"):
        CountingRules(hit_s=1.0, ignore_s=0.5)


def test_figures_by_hand() -> None:
    words = tuple(Spoken("yes", 10.0 * n, 10.0 * n + 0.5) for n in range(1, 21))
    events = [(word.end_s + 0.02 * n, "yes") for n, word in enumerate(words[:18])]
    first = outcome(*events, (500.0, "no"), spoken=words)
    second = outcome((10.0, "yes"), (20.0, "no"), spoken=())
    row = summarise([first, second], ["yes", "no"])
    assert (row["hours"], row["spoken"], row["missed"], row["missed_share"]) == (2.0, 20, 2, 0.1)
    assert (row["false_accepts"], row["per_hour"]) == (3, 1.5)
    assert row["per_hour_interval95"] == pytest.approx([0.3094, 4.3836], abs=1e-3)  # 3: 0.619 to 8.767
    assert row["missed_interval95"] == pytest.approx([0.0279, 0.3010], abs=1e-3)
    # 18 latencies, 0 to 0.34 s: half of them are at most 0.16 s, and 95 % (17.1 of 18) at most 0.34 s.
    assert (row["latency_median_s"], row["latency_95_s"]) == (pytest.approx(0.16), pytest.approx(0.34))
    yes, no = row["per_word"]
    assert (yes["word"], yes["spoken"], yes["missed"], yes["false_accepts"]) == ("yes", 20, 2, 1)
    assert (no["spoken"], no["missed_share"], no["false_accepts"], no["latency_median_s"]) == (0, None, 2, None)


def test_no_false_accept_in_some_hours_means_at_most_three_in_them() -> None:
    row = summarise([outcome() for _ in range(10)], ["yes"])
    assert row["per_hour_interval95"] == pytest.approx([0, 0.3], abs=1e-3)
    assert summarise([], ["yes"])["per_hour"] is None


TIMES = st.integers(0, 200).map(lambda tenth: tenth / 10)
SPOKEN = st.lists(st.tuples(st.sampled_from(["yes", "no"]), TIMES, st.integers(0, 12)), max_size=8)
EVENTS = st.lists(st.tuples(TIMES, st.sampled_from(["yes", "no"])), max_size=12)


@settings(max_examples=30, deadline=None)
@given(SPOKEN, EVENTS, st.integers(0, 500))
def test_every_event_and_word_is_counted_once_and_a_shift_changes_nothing(
    labels: list[tuple[str, float, int]], events: list[tuple[float, str]], shift: int
) -> None:
    def counted(offset: float) -> Outcome:
        spoken = tuple(Spoken(word, start + offset, start + tenths / 10 + offset) for word, start, tenths in labels)
        return outcome(*((time_s + offset, word) for time_s, word in events), spoken=spoken)

    found = counted(0)
    hits, misses, false_accepts, not_counted = counts(found)
    assert hits + misses == len(labels)
    assert hits + false_accepts + not_counted == len(events)
    assert all(-1.3 <= hit.latency_s <= 0.5 + 1e-6 for hit in found.hits)
    assert counts(counted(shift / 10)) == counts(found)


@settings(max_examples=25, deadline=None)
@given(SPOKEN, EVENTS)
def test_no_assignment_hits_more_words(labels: list[tuple[str, float, int]], events: list[tuple[float, str]]) -> None:
    spoken = [Spoken(word, start, start + tenths / 10) for word, start, tenths in labels]
    fits = [
        [place for place, word in enumerate(spoken)
         if word.word == name and word.start_s - 1e-6 <= time_s <= word.end_s + 0.5 + 1e-6]
        for time_s, name in events
    ]  # fmt: skip
    owner = dict[int, int]()

    def assign(event: int, seen: set[int]) -> bool:
        for place in fits[event]:
            if place not in seen:
                seen.add(place)
                if place not in owner or assign(owner[place], seen):
                    owner[place] = event
                    return True
        return False

    assert len(outcome(*events, spoken=tuple(spoken)).hits) == sum(assign(event, set()) for event in range(len(events)))


def test_the_interval_of_a_rate_holds_its_own_estimate() -> None:
    row = summarise([outcome((1.0, "no"), (1000.0, "yes"))], ["yes", "no"])
    low, high = row["per_hour_interval95"]
    assert low < row["per_hour"] < high
    assert math.isclose(row["per_hour"], 2.0)
