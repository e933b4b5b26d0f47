"""The times of real ranks side by side, and one that is slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from kws.results.report import write_report
from kws.run.step_parts import PARTS
from tests.multiproc.conftest import one_worker
from tests.multiproc.forked import FRONT_END_DELAY, ForkedProcess
from tests.multiproc.launching import events, finish, rank_environments, status

pytestmark = pytest.mark.multiproc


@one_worker
def test_the_log_has_the_times_of_every_rank(pair: Path) -> None:
    rows = events(pair, "ranks")
    assert sum(row["steps"] for row in rows) == max(row["step"] for row in events(pair, "step"))
    for row in rows:
        assert row["seconds"].keys() <= set(PARTS)
        assert {"data", "front_end", "forward", "backward", "all_reduce", "update"} <= row["seconds"].keys()
        assert {len(column) for column in row["seconds"].values()} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["fast", "exact"])
def test_a_slow_rank_is_named_with_the_part_that_is_slow(config: Path, tmp_path: Path, reduction: str) -> None:
    run = tmp_path / "run"
    arguments = ["train", str(config), "--run", str(run)]
    for setting in ("train.epochs=3", "data.workers=0", f"train.reduction={reduction}", "train.eval_epochs=3"):
        arguments += ["--set", setting]
    first, second = rank_environments(2)
    ranks = [ForkedProcess(arguments, first), ForkedProcess(arguments, second | {FRONT_END_DELAY: "0.3"})]
    (code, output), (other_code, _) = finish(ranks[0]), finish(ranks[1])
    assert (code, other_code) == (0, 0), output

    (straggler, *more) = events(run, "straggler")
    assert (straggler["rank"], straggler["part"], straggler["slow"]) == (1, "front_end", True)
    assert straggler["ratio"] > 1.25
    assert {row["rank"] for row in more} <= {1}
    (line, *_) = [line for line in output.splitlines() if "the median" in line]
    assert "rank 1 on " in line
    assert "front end" in line
    assert status(run)["state"] == "finished"
    waited = [sum(row["seconds"]["all_reduce"][rank] for row in events(run, "ranks")) for rank in range(2)]
    assert waited[0] > 2 * waited[1], "the fast rank waits in the all-reduce, and its own backward pass stays short"
    page = write_report(run)[0].read_text(encoding="utf-8")
    assert "busy, x the median" in page
