"""Two watchdogs in one process, over a real socket: what one rank learns about the other."""

from __future__ import annotations

import queue
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from kws.distributed import watchdog
from kws.distributed.connection import Connection
from kws.distributed.watchdog import SYNCHRONISING, Watchdog

TIMEOUT_S = 60.0


class FakeStop:
    """A stop request without signal handlers."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.requested = threading.Event()

    def request(self, number: int | None) -> None:
        self.signal = self.signal or number
        self.requested.set()

    def __bool__(self) -> bool:
        return self.requested.is_set()


class FakeRanks:
    """One of two ranks that are threads; `shared` is the same list on both."""

    world_size = 2

    def __init__(self, rank: int, barrier: threading.Barrier, shared: list[Any], device: str) -> None:
        self.rank, self._barrier, self._shared, self.device = rank, barrier, shared, torch.device(device)
        self.is_main = rank == 0

    def gather(self, value: Any) -> list[Any]:
        self._shared[self.rank] = value
        self._barrier.wait(TIMEOUT_S)
        values = list(self._shared)
        self._barrier.wait(TIMEOUT_S)
        return values

    def on_main(self, action: Callable[[], Any]) -> Any:
        return self.gather(action() if self.is_main else None)[0]

    def node_ranks(self) -> list[int]:
        return [0, 1]


class Pair:
    """The watchdogs of both ranks, with their stop requests and the faults that were reported."""

    def __init__(self, hang_s: float, dead_s: float, start_s: float, device: str) -> None:
        barrier, shared = threading.Barrier(2), [None, None]
        self.stops = [FakeStop(), FakeStop()]
        self.reported = [queue.SimpleQueue[str](), queue.SimpleQueue[str]()]

        def make(rank: int) -> Watchdog:
            ranks: Any = FakeRanks(rank, barrier, shared, device)
            stop: Any = self.stops[rank]
            return Watchdog(ranks, "127.0.0.1", stop, hang_s, self.reported[rank].put, dead_s, start_s)

        with ThreadPoolExecutor(2) as pool:
            self.watchdogs = list(pool.map(make, (0, 1)))
        self.open = {0, 1}

    def close(self, rank: int, reason: str | None = None) -> None:
        self.open.discard(rank)
        self.watchdogs[rank].close(reason)


@pytest.fixture
def make_pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pair]]:
    exits: list[int] = []
    monkeypatch.setattr(watchdog.os, "_exit", exits.append)  # after the grace period a watchdog ends the process
    pairs: list[Pair] = []

    def make(hang_s: float = 0.0, dead_s: float = 60.0, start_s: float = 60.0, device: str = "cpu") -> Pair:
        pairs.append(Pair(hang_s, dead_s, start_s, device))
        return pairs[-1]

    yield make
    for pair in pairs:
        for rank in tuple(pair.open):
            pair.close(rank)


def test_a_stop_request_reaches_the_other_rank_with_its_signal(make_pair: Callable[..., Pair]) -> None:
    for sender in (0, 1):
        pair = make_pair()
        assert pair.watchdogs[0].unreachable == []
        pair.stops[sender].request(signal.SIGUSR2)
        assert pair.stops[1 - sender].requested.wait(TIMEOUT_S)
        assert pair.stops[1 - sender].signal == signal.SIGUSR2


def test_a_rank_that_leaves_in_order_is_no_fault(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    pair.close(1)
    assert pair.watchdogs[0].wait_for_fault(0.5) is None


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_rank_is_known_to_the_other_which_does_not_print_it(
    failing: int, make_pair: Callable[..., Pair]
) -> None:
    pair = make_pair()
    other = pair.watchdogs[1 - failing]
    pair.close(failing, "train.lr: too high")
    text = other.wait_for_fault(TIMEOUT_S)
    assert text is not None
    assert f"rank {failing} " in text
    assert "train.lr: too high" in text
    assert not other.prints_fault, "the rank that failed prints it"


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_whose_connection_closes_without_a_goodbye_is_named(
    killed: int, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair()
    monkeypatch.setattr(Connection, "send", lambda self, message: None)  # no goodbye is sent, as after SIGKILL
    pair.close(killed)
    monkeypatch.undo()
    other = pair.watchdogs[1 - killed]
    text = other.wait_for_fault(TIMEOUT_S)
    assert text is not None
    assert f"rank {killed} on {socket.gethostname()}" in text
    assert other.prints_fault


def test_on_gpus_a_fault_is_printed_at_once_because_the_training_waits_for_the_gpu(
    make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pair = make_pair(device="cuda")
    monkeypatch.setattr(Connection, "send", lambda self, message: None)
    pair.close(1)
    monkeypatch.undo()
    text = pair.watchdogs[0].wait_for_fault(TIMEOUT_S)
    assert text is not None
    assert text in capfd.readouterr().err
    assert not pair.watchdogs[0].prints_fault, "not a second time"


def test_a_rank_that_sends_nothing_is_named(make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(dead_s=0.5)
    monkeypatch.setattr(Watchdog, "_send_to_all", lambda self, message: None)
    text = pair.watchdogs[0].wait_for_fault(TIMEOUT_S)
    assert text is not None
    assert "no answer from rank 1" in text


def test_stalled_ranks_are_listed_with_their_activity(
    make_pair: Callable[..., Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    pair = make_pair(hang_s=0.5)
    main, other = pair.watchdogs
    main.report_progress(SYNCHRONISING)
    other.report_progress("reading clips")
    assert main.wait_for_fault(1.5) is None, "before the first step an activity may take a minute"
    for each in pair.watchdogs:
        each.first_step_done()
    text = main.wait_for_fault(TIMEOUT_S)
    assert text is not None
    assert "train.hang_s" in text
    assert text.index("rank 1: reading clips") < text.index("rank 0: ")
    assert other.wait_for_fault(TIMEOUT_S) == text
    assert [each.get(timeout=TIMEOUT_S) for each in pair.reported] == [text, text]
    assert main.prints_fault
    assert not other.prints_fault
    for rank in (0, 1):
        pair.close(rank)
    assert "Current thread" in capfd.readouterr().err, "the stalled rank prints its stacks"


def test_a_stall_before_the_first_step_is_found_too(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(hang_s=0.2, start_s=0.3)
    pair.watchdogs[1].report_progress("reading clips")
    text = pair.watchdogs[0].wait_for_fault(TIMEOUT_S)
    assert text is not None
    assert "rank 1: reading clips" in text


def test_an_activity_without_time_limit_is_never_stalled(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(hang_s=0.5)
    for each in pair.watchdogs:
        each.first_step_done()
    with pair.watchdogs[1].no_time_limit("saving"):
        assert pair.watchdogs[0].wait_for_fault(2.0) is None
