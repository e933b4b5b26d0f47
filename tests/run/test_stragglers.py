"""Which rank is named, from times of ranks made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kws.run.step_parts import BUSY_PARTS, PARTS, busy_seconds, largest_parts, rounded, shares
from kws.run.stragglers import RankSeconds, Straggler, StragglerDetector, compare_ranks

HOSTS = [f"node{rank // 2}" for rank in range(8)]


def line(ranks: int = 8, **slow: dict[int, float]) -> RankSeconds:
    """A line over ten steps of 1 s: every rank busy for half of it; `part={rank: seconds more}` makes ranks slow."""
    own = {"data": 0.5, "front_end": 1.0, "forward": 1.5, "backward": 2.0}
    found = {
        part: [seconds + slow.get(part, {}).get(rank, 0.0) for rank in range(ranks)] for part, seconds in own.items()
    }
    busy = busy_seconds(found)
    return found | {"all_reduce": [max(busy) + 5.0 - one for one in busy]}


def texts(detector: StragglerDetector, *lines: tuple[int, RankSeconds]) -> list[str]:
    return [change.text() for steps, seconds in lines for change in detector.add(steps, seconds)]


def test_a_rank_beside_the_others_has_ratio_part_and_cost() -> None:
    shares_of = compare_ranks(line(data={5: 2.0}))
    assert [share.rank for share in shares_of] == list(range(8))
    slow = shares_of[5]
    assert (slow.ratio, slow.part) == (pytest.approx(7.0 / 5.0), "data")
    assert slow.wait == pytest.approx(2.0 / 12.0)
    assert {share.ratio for share in shares_of if share.rank != 5} == {1.0}


def test_of_two_ranks_the_slower_one_is_compared_with_the_faster() -> None:
    assert [share.ratio for share in compare_ranks(line(2, backward={1: 5.0}))] == [1.0, 2.0]


def test_a_straggler_is_named_once_and_again_when_its_time_is_ten_times_as_long() -> None:
    detector = StragglerDetector(HOSTS)
    found = texts(detector, *[(10, line(data={5: 2.0}))] * 31)
    assert len(found) == 2
    assert found[0].startswith("rank 5 on node2: 1.4 x the median for 30 steps, most of it in data")
    assert "for 300 steps" in found[1]
    assert [straggler.rank for straggler in detector.present] == [5]


def test_equal_ranks_are_never_named() -> None:
    assert texts(StragglerDetector(HOSTS), *[(10, line())] * 20) == []


def test_a_single_slow_moment_makes_no_straggler() -> None:
    lines = [(10, line(data={3: 60.0} if number == 5 else {})) for number in range(12)]
    assert texts(StragglerDetector(HOSTS), *lines) == []


def test_a_few_short_steps_say_nothing() -> None:
    short = {part: [seconds / 1000.0 for seconds in column] for part, column in line(data={5: 5.0}).items()}
    assert texts(StragglerDetector(HOSTS), *[(1, short)] * 20) == []


def test_a_slow_rank_for_which_nobody_waits_long_is_not_named() -> None:
    waiting = {**line(data={5: 2.0}), "all_reduce": [500.0] * 8}
    assert texts(StragglerDetector(HOSTS), *[(10, waiting)] * 9) == []


def test_a_change_of_part_and_the_end_are_reported() -> None:
    detector = StragglerDetector(HOSTS)
    lines = [line(data={5: 2.0})] * 4 + [line(backward={5: 2.0})] * 4 + [line()] * 4
    changes = [change for seconds in lines for change in detector.add(10, seconds)]
    assert [(change.part, change.slow) for change in changes] == [
        ("data", True),
        ("backward", True),
        ("backward", False),
    ]
    assert "again" in changes[-1].text()
    assert detector.present == []


def test_a_node_of_which_all_ranks_are_slow_is_named_rank_by_rank() -> None:
    detector = StragglerDetector(HOSTS)
    found = [change for _ in range(3) for change in detector.add(10, line(front_end={4: 3.0, 5: 3.0}))]
    assert [(change.rank, change.host, change.part) for change in found] == [
        (4, "node2", "front_end"), (5, "node2", "front_end"),
    ]  # fmt: skip


def test_a_straggler_survives_the_log() -> None:
    values: dict[str, Any] = {
        "rank": 1,
        "host": "a",
        "slow": True,
        "ratio": 1.5,
        "steps": 20,
        "part": "all",
        "wait": 0.1,
    }
    assert "rank 1 on a" in Straggler(**values).text()


# --- parts -----------------------------------------------------------------------------------------------------


def test_busy_is_what_the_others_wait_for() -> None:
    assert set(PARTS) - set(BUSY_PARTS) == {"all_reduce", "save", "evaluation"}
    assert busy_seconds({"data": [1.0, 2.0], "update": [0.5, 0.5], "all_reduce": [9.0, 9.0], "save": [3.0, 3.0]}) == [
        1.5,
        2.5,
    ]


def test_shares_have_the_order_of_the_parts_and_none_that_took_no_time() -> None:
    assert shares({"other": 1.0, "data": 3.0, "save": 0.0}) == {"data": 0.75, "other": 0.25}
    assert shares({}) == {}
    assert rounded({"other": 1e-9, "data": 0.12345678}) == {"data": 0.123457}


def test_the_largest_parts_fit_the_width() -> None:
    seconds = {"backward": 41.0, "front_end": 30.0, "forward": 28.6, "update": 0.4}
    assert largest_parts(seconds, most=6) == "backward 41 %, front end 30 %, forward 29 %"
    assert largest_parts(seconds, most=6, width=20) == "backward 41 %"
    assert largest_parts({}, most=6) == ""
