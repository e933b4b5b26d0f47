"""Ranks that are killed, paused, stalled, or asked to stop during an evaluation: what the other ranks do."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kws.evaluation.ledger_audit import verify_run
from kws.packing import pack
from tests.conftest import write_corpus
from tests.multiproc.forked import HOLD_READS
from tests.multiproc.launching import finish, kill, start, start_ranks, steps_done, wait_until

pytestmark = [pytest.mark.multiproc, pytest.mark.slow]
HOST = socket.gethostname()
LONG = ("train.epochs=2000", "train.global_batch=24", "data.workers=1", "train.save_minutes=0.02")


@contextmanager
def training(count: int, config: Path, run: Path, *settings: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Ranks that have trained some steps; they are killed at the end."""
    ranks = start_ranks(count, config, run, *LONG, *settings)
    try:
        wait_until(lambda: steps_done(run) >= 4, ranks[0])
        yield ranks
    finally:
        for rank in ranks:
            kill(rank)
            rank.communicate()


def wait_for_end(ranks: list[subprocess.Popen[str]], seconds: float = 60.0) -> list[tuple[int, str]]:
    """Code and output of each rank; they must end by themselves."""
    outcomes = []
    for rank in ranks:
        output, _ = rank.communicate(timeout=seconds)
        outcomes.append((rank.returncode, output))
    return outcomes


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_and_is_named(killed: int, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(3, config, run) as ranks:
        lost = ranks[killed]
        lost.kill()
        outcomes = wait_for_end([rank for rank in ranks if rank is not lost])
    name = f"rank {killed} on {HOST} (process {lost.pid})"
    assert [code for code, _ in outcomes] == [1, 1]
    assert [name in output for _, output in outcomes] == [True, False], "one of them prints it"
    assert "Traceback" not in "".join(output for _, output in outcomes)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 1)
    assert name in status["why"]


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: while it exists, rank 1 waits for clips, and rank 0 for rank 1."""
    monkeypatch.setenv(HOLD_READS, str(tmp_path / "hold"))
    return tmp_path / "hold"


def test_a_stalled_rank_is_found_and_shows_its_stack(config: Path, tmp_path: Path, hold: Path) -> None:
    run = tmp_path / "run"
    with training(2, config, run, "train.hang_s=4") as ranks:
        hold.touch()
        outcomes = [(rank.communicate(timeout=90)[0], rank.returncode) for rank in ranks]
    assert [code for _, code in outcomes] == [1, 1]
    assert "train.hang_s): rank 1: reading clips; rank 0: " in outcomes[0][0]
    assert "stream.py" in outcomes[1][0], "its stack shows where it is"
    assert "train.hang_s" in json.loads((run / "status.json").read_text())["why"]


def test_ranks_that_are_paused_for_a_while_continue(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(2, config, run, "train.hang_s=4") as ranks:
        for rank in ranks:  # as Ctrl-Z does
            rank.send_signal(signal.SIGSTOP)
        time.sleep(6)
        done = steps_done(run)
        for rank in ranks:
            rank.send_signal(signal.SIGCONT)
        wait_until(lambda: steps_done(run) > done + 5, ranks[0])
        (run / "stop").touch()
        assert [code for code, _ in wait_for_end(ranks)] == [75, 75]
    assert verify_run(run).faults == []


def test_a_signal_to_one_rank_stops_all(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with training(3, config, run) as ranks:
        ranks[2].send_signal(signal.SIGUSR2)
        assert [code for code, _ in wait_for_end(ranks)] == [75, 75, 75]
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["signal"]) == ("preempted", signal.SIGUSR2)


def test_repeated_signals_do_not_change_the_exit_code(config: Path, tmp_path: Path) -> None:
    with training(2, config, tmp_path / "run") as ranks:
        until = time.monotonic() + 60.0
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < until:
            for rank in ranks:
                rank.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        assert [rank.returncode for rank in ranks] == [75, 75]


def test_a_second_interrupt_ends_a_rank_that_waits_for_another(config: Path, tmp_path: Path, hold: Path) -> None:
    with training(2, config, tmp_path / "run") as ranks:
        hold.touch()  # rank 0 waits for rank 1 soon, in a collective operation
        for _ in range(2):
            time.sleep(3.5)
            ranks[0].send_signal(signal.SIGINT)
        assert ranks[0].wait(timeout=60) == 130
        ranks[1].communicate(timeout=60)


def test_a_rank_that_does_not_answer_ends_the_others(config: Path, tmp_path: Path) -> None:
    with training(3, config, tmp_path / "run") as ranks:
        silent = ranks[1]
        silent.send_signal(signal.SIGSTOP)
        outcomes = wait_for_end([ranks[0], ranks[2]], 120)
        assert [code for code, _ in outcomes] == [1, 1]
        assert f"no answer from rank 1 on {HOST} (process {silent.pid}) for 60 s" in outcomes[0][1]
        silent.send_signal(signal.SIGCONT)
        assert silent.wait(timeout=60) == 1, "the others have ended"


def test_an_evaluation_stops_within_a_batch_and_is_repeated(tmp_path: Path, config: Path) -> None:
    corpus = write_corpus(tmp_path / "wav", {"low": 330, "high": 330}, speakers=660)
    names = sorted(str(path.relative_to(corpus)) for path in corpus.glob("*/*_nohash_*"))
    (corpus / "validation_list.txt").write_text("\n".join(names[:600]))
    (corpus / "testing_list.txt").write_text("\n".join(names[600:610]))
    shards = pack.pack([corpus], tmp_path / "shards")[0].root
    run, settings = tmp_path / "run", (f"data.shards={shards}", "model.name=densenet_bc_100_12", "train.epochs=1")
    process = start(2, config, run, *settings)
    wait_until(lambda: any((run / "checkpoints").glob("step-*")), process)
    (run / "stop").touch()
    finish(process)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("preempted", 75)
    assert not list((run / "checkpoints").glob("step-*-evaluated")), "the evaluation was not finished"
    assert finish(start(2, config, run, *settings))[0] == 0
    assert len(list((run / "checkpoints").glob("step-*-evaluated"))) == 1
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("epoch") == 1
    assert verify_run(run).replayed == 0, "no step was trained again"


def test_a_rank_that_waits_alone_for_the_process_group_ends(config: Path, tmp_path: Path) -> None:
    alone, other = start_ranks(2, config, tmp_path / "run", "train.hang_s=5")
    kill(other)
    other.communicate()
    output, _ = alone.communicate(timeout=150)
    assert alone.returncode == 1
    assert f"kws: rank 0 on {HOST}: not all 2 ranks joined the process group at 127.0.0.1:" in output
    assert "train.hang_s" in output
    assert "Traceback" not in output
