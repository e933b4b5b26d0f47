"""An attempt on one rank: who holds the folder, stop requests, and what status.json says after a failure."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kws.distributed.ranks import Ranks
from kws.distributed.signals import STOP_SIGNALS
from kws.distributed.watchdog import Watchdog
from kws.errors import PeerError, RankError, UsageError
from kws.run import folder as run_folder
from kws.run import lock
from kws.run.attempt import Attempt

STEP = 7


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the handlers of the stop signals."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_attempt(run: Path) -> Attempt:
    """An attempt of a single rank at update 7; nothing here uses the rank's accelerator."""
    ranks = Ranks(0, 1, torch.device("cpu"), 1, None)  # type: ignore[arg-type]
    return Attempt(run, ranks, hang_s=0.0, step=lambda: STEP)


def fail(attempt: Attempt, error: BaseException) -> None:
    """An attempt that is accepted and then ends with an error."""
    with attempt:
        attempt.begin()
        raise error


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "status.json").read_text())
    return found


def wait_for_stop(attempt: Attempt) -> None:
    poll = threading.Event()
    for _ in range(6000):
        if attempt.stop:
            return
        poll.wait(0.01)
    pytest.fail("no stop request within a minute")


# --- stop requests --------------------------------------------------------------------------------------------


def test_a_stop_file_of_an_earlier_attempt_is_removed(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with make_attempt(tmp_path) as attempt:
        assert not (tmp_path / "stop").exists()
        assert not attempt.stop


def test_a_stop_file_requests_a_stop(tmp_path: Path) -> None:
    with make_attempt(tmp_path) as attempt:
        (tmp_path / "stop").touch()
        wait_for_stop(attempt)
        assert attempt.stop.signal is None


def test_a_signal_requests_a_stop_and_status_json_names_it(tmp_path: Path) -> None:
    with make_attempt(tmp_path) as attempt:
        attempt.begin()
        assert status(tmp_path) == {"state": "running", "code": None, "step": STEP, "rank": 0, "signal": None}
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_for_stop(attempt)
        attempt.write_status("preempted", 75)
    assert status(tmp_path) == {"state": "preempted", "code": 75, "step": STEP, "rank": 0, "signal": signal.SIGUSR1}


# --- the folder -----------------------------------------------------------------------------------------------


def test_the_folder_is_held_by_one_attempt_and_released_at_its_end(tmp_path: Path) -> None:
    with make_attempt(tmp_path):
        with pytest.raises(UsageError, match=rf"process {os.getpid()} .*--run"), make_attempt(tmp_path):
            pytest.fail("a second attempt has begun")
        assert lock.find_holder(tmp_path) is not None
    assert lock.find_holder(tmp_path) is None


def test_an_attempt_that_finds_the_folder_in_use_leaves_its_status_alone(tmp_path: Path) -> None:
    with make_attempt(tmp_path) as attempt:
        attempt.begin()
        with pytest.raises(UsageError), make_attempt(tmp_path):
            pytest.fail("a second attempt has begun")
        assert status(tmp_path)["state"] == "running"


# --- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "why"),
    [
        (ValueError("some bug"), 1, "some bug"),
        (ZeroDivisionError(), 1, "ZeroDivisionError"),
        (UsageError("train.lr: too high"), 2, "train.lr: too high"),
        (RankError("rank 0: a damaged shard"), 2, "rank 0: a damaged shard"),
        (KeyboardInterrupt(), 1, "KeyboardInterrupt"),
    ],
)
def test_an_error_inside_is_raised_and_recorded_and_the_folder_is_released(
    tmp_path: Path, error: BaseException, code: int, why: str
) -> None:
    with pytest.raises(type(error)) as caught:
        fail(make_attempt(tmp_path), error)
    assert caught.value is error
    assert status(tmp_path) == {"state": "failed", "code": code, "step": STEP, "rank": 0, "why": why}
    assert lock.find_holder(tmp_path) is None


def test_a_full_disk_is_recorded_as_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        fail(make_attempt(tmp_path), OSError(28, "No space left on device", "RUN/metrics.jsonl"))
    assert status(tmp_path)["code"] == 2
    assert "RUN/metrics.jsonl" in status(tmp_path)["why"]


def test_a_refused_run_leaves_the_status_of_the_attempt_before(tmp_path: Path) -> None:
    run_folder.write_status(tmp_path, "finished", 30, 0)
    before = (tmp_path / "status.json").read_bytes()
    with pytest.raises(UsageError, match="other settings"), make_attempt(tmp_path):
        raise UsageError("made with other settings")  # before begin
    assert (tmp_path / "status.json").read_bytes() == before
    assert lock.find_holder(tmp_path) is None


@pytest.mark.parametrize("prints", [True, False])
def test_a_failed_collective_is_explained_by_the_fault_of_another_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prints: bool
) -> None:
    fault = "rank 1 on node2 (process 5) ended unexpectedly"
    monkeypatch.setattr(Watchdog, "wait_for_fault", lambda self: fault)
    monkeypatch.setattr(Watchdog, "prints_fault", prints)
    with pytest.raises(PeerError) as caught:
        fail(make_attempt(tmp_path), RuntimeError("gloo: connection closed by peer"))
    assert str(caught.value) == (fault if prints else ""), "another rank may print it"
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert status(tmp_path) == {"state": "failed", "code": 1, "step": STEP, "rank": 0, "why": fault}
