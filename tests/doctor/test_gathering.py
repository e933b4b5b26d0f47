"""Rank 0 and its followers over real sockets: all answer, one never comes, one ends, one is too slow."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kws.doctor import gathering
from kws.doctor.gathering import Leader, follow
from kws.doctor.identity import Identity
from kws.errors import RankError


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Identity:
    monkeypatch.setattr(gathering, "_GRACE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return Identity(world_size=3, host="node1", port=port)


@pytest.fixture
def leader(identity: Identity) -> Iterator[Leader]:
    found = Leader(identity)
    yield found
    found.close()


def start(identity: Identity, rank: int, stage: Callable[[dict[str, Any]], dict[str, Any]]) -> threading.Thread:
    """A follower in a thread, with a single stage."""
    own = dataclasses.replace(identity, rank=rank, host=f"node{rank + 1}")

    def run() -> None:
        with contextlib.suppress(RankError):  # rank 0 may end first
            follow(own, {"stage": stage}, 5.0, 5.0)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def answer(task: dict[str, Any]) -> dict[str, Any]:
    return {"sum": task["number"] + 1}


def test_all_ranks_answer_and_their_clocks_agree(identity: Identity, leader: Leader) -> None:
    followers = [start(identity, rank, answer) for rank in (1, 2)]
    leader.wait_for_ranks(5.0, lambda found, wanted: None)
    assert leader.hosts == {0: "node1", 1: "node2", 2: "node3"}
    clocks = leader.clock_offsets()
    assert set(clocks) == {"node2", "node3"}
    assert all(abs(seconds) <= error + 1e-3 for seconds, error in clocks.values())
    found = leader.run_stage("stage", {"number": 1}, answer, 5.0)
    assert found == {0: {"sum": 2}, 1: {"sum": 2}, 2: {"sum": 2}}
    assert leader.lost == {}
    leader.close()
    for thread in followers:
        thread.join(5.0)
        assert not thread.is_alive()


def test_a_rank_that_never_comes_and_one_that_is_silent_are_lost(identity: Identity, leader: Leader) -> None:
    release = threading.Event()
    start(identity, 1, lambda task: {"late": release.wait(10.0)})
    leader.wait_for_ranks(0.5, lambda found, wanted: None)
    assert set(leader.lost) == {2}
    assert leader.present == [0, 1]
    found = leader.run_stage("stage", {}, lambda task: {"own": True}, 0.1)
    assert found == {0: {"own": True}}
    assert set(leader.lost) == {1, 2}
    release.set()


def test_a_rank_that_ends_is_lost_at_once(identity: Identity, leader: Leader) -> None:
    with socket.create_connection(("127.0.0.1", identity.ports[0])) as dying:
        dying.sendall(f'{{"token": "{identity.token}", "rank": 1, "host": "node2"}}\n'.encode())
        leader.wait_for_ranks(0.3, lambda found, wanted: None)
        assert leader.present == [0, 1]
    began = time.monotonic()
    leader.run_stage("stage", {}, lambda task: {}, 60.0)
    assert time.monotonic() - began < 30.0, "not the limit"
    assert "ended" in leader.lost[1]


def test_strangers_on_the_port_are_no_ranks(identity: Identity, leader: Leader) -> None:
    with socket.create_connection(("127.0.0.1", identity.ports[0])) as stranger:
        stranger.sendall(b'GET / HTTP/1.1\r\n\r\n{"token": "x", "rank": 1}\n')
        leader.wait_for_ranks(0.3, lambda found, wanted: None)
    assert leader.present == [0]


def test_the_next_port_is_used_where_the_first_is_taken(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_CONNECT_S", 0.2)
    with socket.create_server(("", identity.ports[0])):  # and answers nobody
        leader = Leader(dataclasses.replace(identity, world_size=2))
        start(dataclasses.replace(identity, world_size=2), 1, answer)
        leader.wait_for_ranks(5.0, lambda found, wanted: None)
        assert leader.present == [0, 1]
        leader.close()


@pytest.mark.parametrize("address", ["no-such-host.invalid", "127.0.0.1"])
def test_a_rank_that_cannot_reach_rank_0_says_where_it_tried(address: str, identity: Identity) -> None:
    own = dataclasses.replace(identity, rank=2, address=address)
    with pytest.raises(RankError, match=f"rank 2 .*{address}:{identity.ports[0]}"):
        follow(own, {}, 0.5, 1.0)
