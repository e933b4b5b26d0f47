"""The times of ranks in the log, where a rank is slow: rank 0 writes, the others write nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kws.config import Config
from kws.distributed.ranks import PendingGather, Ranks
from kws.run import folder as run_folder
from kws.run import log
from kws.run.display import RunLength
from kws.run.step_parts import PARTS
from kws.training.step_times import StepTimes
from kws.training.time_log import TimeLog
from tests.training.one_process import OneProcess


class Gathered(PendingGather):
    """Ten seconds of two ranks, the second of which is slow."""

    def __init__(self) -> None:
        """Nothing is gathered."""

    def result(self) -> list[list[float]]:
        busy = {"forward": (4.0, 9.0), "all_reduce": (6.0, 1.0)}
        return [[busy.get(part, (0.0, 0.0))[rank] for part in PARTS] for rank in range(2)]


class OneOfTwo(Ranks):
    """One of two ranks."""

    def start_gather(self, values: Sequence[float]) -> PendingGather:
        assert len(values) == len(PARTS)
        return Gathered()


def log_lines(folder: Path, rank: int) -> list[dict[str, Any]]:
    """Three lines of the log, ten steps each; returns metrics.jsonl."""
    ranks, notes = OneOfTwo(rank, 2, torch.device("cpu"), 1, OneProcess()), list[str]()
    run_folder.write_status(folder, "running", 0)
    with log.RunLog(folder, Config(), RunLength(1, 30), 0, log.make_console(ranks.is_main), ranks.is_main) as run_log:
        times = TimeLog(StepTimes(), ranks, ["a", "b"], run_log, folder, notes.append, 0)
        for step in (10, 20, 30):
            times.step_line(step)
        times.finish(write=True)
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_rank_0_writes_the_times_of_all_ranks_and_names_the_slow_one(tmp_path: Path) -> None:
    rows = log_lines(tmp_path, rank=0)
    assert [(row["step"], row["steps"]) for row in rows if row["event"] == "ranks"] == [(10, 10), (20, 10), (30, 10)]
    (straggler,) = [row for row in rows if row["event"] == "straggler"]
    assert (straggler["rank"], straggler["host"], straggler["part"]) == (1, "b", "forward")
    (line,) = json.loads((tmp_path / "status.json").read_text())["stragglers"]
    assert "rank 1 on b" in line


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    assert log_lines(tmp_path, rank=1) == []
    assert "stragglers" not in json.loads((tmp_path / "status.json").read_text())
