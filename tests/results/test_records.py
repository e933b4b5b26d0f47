"""Reading a run folder's files: events of resumed runs, damaged lines, and the status of a killed run."""

from __future__ import annotations

import json
from pathlib import Path

from kws.results import records
from kws.results.records import read_events
from kws.run import lock
from tests.results.made_runs import epoch, start, step, write_lines


def test_a_resume_replaces_the_rows_that_it_repeats(tmp_path: Path) -> None:
    first = [start(1, 0), *(step(n, loss=1) for n in range(1, 8)), epoch(0, 3), epoch(1, 6)]
    second = [start(2, 3, epoch=1), *(step(n, loss=2) for n in range(4, 6)), epoch(1, 5)]
    events = read_events(write_lines(tmp_path / "m.jsonl", first + second))
    assert [(row["step"], row["loss"]) for row in events if row["event"] == "step"] == [
        (1, 1),
        (2, 1),
        (3, 1),  # before the checkpoint, not repeated
        (4, 2),
        (5, 2),
    ]
    assert [(row["epoch"], row["step"]) for row in events if row["event"] == "epoch"] == [(0, 3), (1, 5)]
    assert [row["attempt"] for row in events if row["event"] == "start"] == [1, 2]


def test_the_later_of_two_rows_for_the_resumed_step_wins(tmp_path: Path) -> None:
    rows = [start(1, 0), step(0, 1), step(1, 1), step(2, 1), start(2, 1), step(1, 2)]
    events = read_events(write_lines(tmp_path / "m.jsonl", rows))
    assert [(row["step"], row["loss"]) for row in events if row["event"] == "step"] == [(0, 1), (1, 2)]


def test_a_start_from_step_0_replaces_everything(tmp_path: Path) -> None:
    rows = [start(1, 0), step(0), step(1), epoch(0, 2), start(2, 0)]
    assert {row["event"] for row in read_events(write_lines(tmp_path / "m.jsonl", rows))} == {"start"}


def test_partial_and_damaged_lines_are_skipped(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [start(1, 0), step(1)])
    with path.open("ab") as file:
        file.write(b'{"event": "st\n\xff\xfe\n[1]\n3\n{"event": "step", "loss": 1}\n{"no": "event"}\n\n')
        file.write(json.dumps(step(2)).encode() + b'\n{"event": "step", "step": 3, "lo')
    assert [row["step"] for row in read_events(path)] == [0, 1, 2]


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none.jsonl") == []


def test_a_killed_run_is_not_reported_as_running(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "running", "step": 3}')
    assert records.read_status(tmp_path) == {"state": "killed", "step": 3}
    held = lock.acquire(tmp_path)
    assert records.read_status(tmp_path)["state"] == "running"
    held.release()
    (tmp_path / "status.json").write_text('{"state": "preempted"}')
    assert records.read_status(tmp_path)["state"] == "preempted"
