from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kws.distributed.worker_pool import WorkerLostError, Workers
from tests.conftest import ROOT
from tests.distributed.worker_functions import fail, kill_itself, process_id, slow_square

pytestmark = pytest.mark.multiproc


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers import tests.distributed.worker_functions."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_items_are_taken_as_needed(processes: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield number

    with Workers(processes) as workers:
        results = workers.map(slow_square, items())
        assert next(results) == 0
        assert taken <= 2 * processes + 1
        assert list(results) == [number * number for number in range(1, 40)]


def test_one_process_is_this_one_and_several_are_new_ones_that_end() -> None:
    with Workers(1) as workers:
        assert set(workers.map(process_id, range(3))) == {os.getpid()}
    with Workers(2) as workers:
        others = set(workers.map(process_id, range(8)))
    assert os.getpid() not in others
    for other in others:
        with pytest.raises(ProcessLookupError):
            os.kill(other, 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_a_worker_is_raised(processes: int) -> None:
    with Workers(processes) as workers, pytest.raises(ValueError, match="0 is wrong"):
        list(workers.map(fail, range(3)))


def test_a_killed_worker_is_an_error() -> None:
    with Workers(2) as workers, pytest.raises(WorkerLostError, match="memory"):
        list(workers.map(kill_itself, range(3)))
