"""Worker processes answer in order, take jobs as they are needed, and say when one of them is gone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from kws.distributed.worker_pool import WorkerLostError, Workers
from tests.conftest import ROOT

pytestmark = pytest.mark.multiproc


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """This module, where the workers look for their jobs."""
    monkeypatch.syspath_prepend(str(ROOT))


def slow_square(number: int) -> int:
    time.sleep(0.02 if number % 2 else 0.0)
    return number * number


def who(_: int) -> int:
    return os.getpid()


def fail(number: int) -> int:
    raise ValueError(f"{number} is no good")


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_jobs_are_taken_as_needed(processes: int) -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    with Workers(processes) as workers:
        results = workers.map(slow_square, jobs())
        assert next(results) == 0
        assert taken <= 2 * processes + 1
        assert list(results) == [number * number for number in range(1, 40)]


def test_one_process_is_this_one_and_several_are_others() -> None:
    with Workers(1) as workers:
        assert set(workers.map(who, range(3))) == {os.getpid()}
    with Workers(2) as workers:
        others = set(workers.map(who, range(8)))
    assert os.getpid() not in others
    for other in others:
        with pytest.raises(ProcessLookupError):
            os.kill(other, 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_job_raises_is_raised(processes: int) -> None:
    with Workers(processes) as workers, pytest.raises(ValueError, match="0 is no good"):
        list(workers.map(fail, range(3)))


def test_a_worker_that_is_gone_is_said() -> None:
    with Workers(2) as workers, pytest.raises(WorkerLostError, match="a worker process has ended"):
        list(workers.map(die, range(3)))
