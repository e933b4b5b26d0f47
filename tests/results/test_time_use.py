"""Where the time of a run went, from events made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kws.results.records import without_repeats
from kws.results.time_use import episode_cells, part_cells, profile_cells, rank_columns, read_time_use
from tests.results.made_runs import epoch, rank_times, start, step, straggler, timed


def test_parts_are_added_up_over_step_epoch_and_end_lines(tmp_path: Path) -> None:
    events = [
        start(1, 0), timed(step(10), data=1.0, backward=2.0), timed(step(20), data=1.0, backward=4.0),
        timed(epoch(0, 20), evaluation=1.0), timed({"event": "end", "step": 20}, save=1.0),
    ]  # fmt: skip
    use = read_time_use(tmp_path, events)
    assert use.steps == 20
    assert use.seconds == {"data": 2.0, "backward": 6.0, "evaluation": 1.0, "save": 1.0}
    assert part_cells(use)[1] == ["backward", "60.0 %", "300.0", "6 s"]
    (plot,) = use.plots
    by_name = {line["name"]: line for line in plot["data"]}
    assert by_name["backward"]["x"] == [10, 20]
    assert by_name["backward"]["y"] == [pytest.approx(66.667), pytest.approx(4.0 / 7.0 * 100.0, abs=1e-3)]
    assert sum(line["y"][1] for line in plot["data"]) == pytest.approx(100.0, abs=0.01)
    json.dumps(plot, allow_nan=False)


def test_a_long_run_is_summed_up_in_pieces(tmp_path: Path) -> None:
    events = [start(1, 0), *(timed(step(number), data=1.0, forward=1.0) for number in range(1, 5001))]
    (plot,) = read_time_use(tmp_path, events).plots
    assert 50 <= len(plot["data"][0]["x"]) <= 100
    assert plot["data"][0]["x"][-1] == 5000


def test_steps_that_a_resumed_run_trained_again_count_once(tmp_path: Path) -> None:
    rows = [start(1, 0), timed(step(10), data=1.0), timed(step(20), data=5.0), rank_times(20, 10, data=[1.0, 2.0])]
    rows += [straggler(20, 1, 20), start(2, 10), timed(step(20), data=2.0)]
    use = read_time_use(tmp_path, without_repeats(rows))
    assert (use.steps, use.seconds) == (20, {"data": 3.0})
    assert use.rank_seconds is None
    assert use.episodes == []


def test_ranks_stand_side_by_side_and_those_of_another_world_size_are_left_out(tmp_path: Path) -> None:
    rows = [start(1, 0), rank_times(5, 5, data=[9.0] * 4), rank_times(10, 5, data=[1.0, 3.0], all_reduce=[2.5, 0.5])]
    rows += [rank_times(15, 5, data=[1.0, 3.0], update=[0.5, 0.5], all_reduce=[2.5, 0.5])]
    use = read_time_use(tmp_path, rows)
    assert use.rank_steps == 10
    assert use.rank_seconds == {"data": [2.0, 6.0], "all_reduce": [5.0, 1.0], "update": [0.5, 0.5]}
    assert rank_columns(use)[1] == {"busy, ms a step": "650.0", "x the median": "2.60", "lost most in": "data"}
    assert rank_columns(use)[0]["lost most in"] == "-"
    (plot,) = use.plots
    assert [(bar["name"], bar["y"]) for bar in plot["data"]] == [
        ("data", [200.0, 600.0]), ("all-reduce", [500.0, 100.0]), ("update", [50.0, 50.0]),
    ]  # fmt: skip


def test_a_straggler_is_one_row_from_its_begin_to_its_end(tmp_path: Path) -> None:
    rows = [straggler(30, 1, 20), straggler(200, 1, 190), straggler(40, 3, 30), straggler(250, 1, 240, slow=False)]
    use = read_time_use(tmp_path, [start(1, 0), *rows, straggler(400, 1, 20)])
    cells = [[cell for place, cell in enumerate(row) if place != 1] for row in episode_cells(use)]
    assert cells == [
        ["1", "10", "250", "1.4", "data", "20 %"],
        ["3", "10", "the end", "1.4", "data", "20 %"],
        ["1", "380", "the end", "1.4", "data", "20 %"],
    ]


def test_profiles_are_listed_and_damaged_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "profile").mkdir()
    found = {"first": 100, "last": 109, "rank": 0, "seconds_a_step": 0.25, "data_wait_share": 0.01}
    (tmp_path / "profile" / "steps-100-110.rank0.summary.json").write_text(json.dumps(found))
    (tmp_path / "profile" / "steps-1-2.rank0.summary.json").write_text("{")
    (row,) = profile_cells(read_time_use(tmp_path, []))
    assert row == ["100 to 109", "0", "250.0", "1.0 %", "-", "-", "profile/steps-100-110.rank0.json.gz"]


def test_a_run_of_before_has_no_times(tmp_path: Path) -> None:
    use = read_time_use(tmp_path, [start(1, 0), step(1), epoch(0, 1)])
    assert (use.seconds, use.rank_seconds, list(use.plots), rank_columns(use)) == (None, None, [], [])
