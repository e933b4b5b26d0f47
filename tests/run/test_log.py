from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kws.config import Config
from kws.run.log import RunLog, make_console
from tests.run.events import LENGTH, STEP, write_run


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line]


def test_every_event_is_a_line_with_time_and_step(tmp_path: Path) -> None:
    write_run(tmp_path, 0, 4)
    rows = events(tmp_path)
    assert [row["event"] for row in rows] == ["start", "step", "step", "step", "step", "epoch", "save", "end"]
    assert all(row.keys() >= {"event", "time", "step"} for row in rows)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert {key: rows[1][key] for key in STEP} == STEP


def test_after_a_line_cut_off_by_a_kill_the_next_line_is_whole(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"event": "st')
    write_run(tmp_path, 0, 1)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[1].startswith('{"event": "start"')


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, Config(), LENGTH, 0, make_console(active=False), active=False) as log:
        log.event("step", 1, **STEP)
        log.advance(1)
        log.evaluation_progress(1, 2)
        log.flush()
    assert list(tmp_path.iterdir()) == []
