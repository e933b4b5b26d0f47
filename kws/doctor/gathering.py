"""Rank 0 leads all ranks through the stages of the examination and collects their answers, without torch.

    other ranks  connect, trying until the limit        rank 0  accepts, compares clocks
    other ranks  <- {"ask": stage}  {"to": stage} ->     rank 0  waits for all answers, at most until the limit

A rank that does not connect, ends or is too slow is noted in `lost`, and the others go on without it. Not a collective
operation, and not torch's store: both may be what is broken.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from kws.distributed import slurm
from kws.distributed.connection import Connection
from kws.doctor.child_process import Answer
from kws.doctor.identity import Identity
from kws.errors import RankError

Stages = Mapping[str, Callable[[Answer], Answer]]
"""The name of a stage -> what a rank does in it."""
_CONNECT_S, _RETRY_S, _TICK_S = 5.0, 0.3, 0.1
_GRACE_S = 5.0
"""A rank's answer may arrive so much later than the limit that the rank itself keeps."""
_CLOCK, _PINGS, _PING_S = "clock ", 5, 2.0
_MOST_NAMES = 8


class Leader:
    """Rank 0. `lost`: rank -> why it takes no part any more. `hosts`: rank -> host, of the ranks that connected."""

    def __init__(self, identity: Identity) -> None:
        self._identity, self._selector = identity, selectors.DefaultSelector()
        self._connections: dict[int, Connection] = {}
        self._asked, self._answers = "", dict[int, Answer]()
        self.hosts: dict[int, str] = {0: identity.host}
        self.lost: dict[int, str] = {}
        self._server = _listen(identity) if identity.world_size > 1 else None
        if self._server:
            self._selector.register(self._server, selectors.EVENT_READ, None)

    @property
    def present(self) -> list[int]:
        """The ranks that take part, this one included."""
        return sorted({0, *self._connections} - set(self.lost))

    def wait_for_ranks(self, limit_s: float, show: Callable[[int, int], object]) -> None:
        """Until all ranks have connected, or until the limit. `show` is called with their number, and with how many
        there should be."""
        deadline, wanted = time.monotonic() + limit_s, self._identity.world_size
        while len(self.hosts) < wanted and time.monotonic() < deadline:
            self._receive()
            show(len(self.hosts), wanted)
        for rank in range(wanted):
            if rank not in self.hosts:
                self.lost[rank] = f"did not connect within {limit_s:g} s{self._absent_hosts()}"

    def _absent_hosts(self) -> str:
        """The nodes of the srun step from which nobody connected: which ranks they have is not known here."""
        seen = {name.partition(".")[0] for name in self.hosts.values()}
        absent = [name for name in slurm.step_hosts() if name.partition(".")[0] not in seen]
        more = f" and {len(absent) - _MOST_NAMES} more" if len(absent) > _MOST_NAMES else ""
        return f", none from {', '.join(absent[:_MOST_NAMES])}{more}" if absent else ""

    def clock_offsets(self) -> dict[str, tuple[float, float]]:
        """By host: how many seconds its clock is ahead of this one's, and how exactly that is known. Measured with one
        rank of each host, from the answer that came back fastest."""
        first = {self.hosts[rank]: rank for rank in reversed(self.present)}
        found = {}
        for host, rank in first.items():
            if rank and (measured := self._clock_offset(rank)):
                found[host] = measured
        return found

    def _clock_offset(self, rank: int) -> tuple[float, float] | None:
        measured = []
        for number in range(_PINGS):
            sent = time.time()
            self._ask({rank}, f"{_CLOCK}{number}", {})
            if self._wait({rank}, time.monotonic() + _PING_S):
                break
            there, returned = self._answers[rank]["time"], time.time()
            measured.append((returned - sent, there - (sent + returned) / 2))
        if not measured:
            return None
        delay, offset = min(measured)
        return offset, delay / 2

    def run_stage(self, name: str, task: Answer, own: Callable[[Answer], Answer], limit_s: float) -> dict[int, Answer]:
        """One stage on all ranks at once. Returns the answers of those that gave one, by rank."""
        others = set(self.present) - {0}
        mine: list[Answer] = []
        thread = threading.Thread(target=lambda: mine.append(own(task)), daemon=True)
        thread.start()
        self._ask(others, name, task)
        deadline = time.monotonic() + limit_s + _GRACE_S
        for rank in self._wait(others, deadline):
            self.lost.setdefault(rank, f"no answer to {name} within {limit_s:g} s")
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(_TICK_S)  # in short pieces, so that a signal is handled in between
        return self._answers | ({0: mine[0]} if mine else {})

    def _ask(self, ranks: set[int], name: str, task: Answer) -> None:
        self._asked, self._answers = name, {}
        for rank in ranks:
            self._connections[rank].send({"ask": name, "task": task})

    def _wait(self, ranks: set[int], deadline: float) -> set[int]:
        """Until each of these ranks has answered or ended. Returns those that have not answered."""
        while True:
            silent = ranks - set(self._answers)
            if not silent - set(self.lost) or time.monotonic() > deadline:
                return silent
            self._receive()

    def close(self) -> None:
        """Lets the other ranks end."""
        for connection in self._connections.values():
            connection.send({"end": True})
            connection.close()
        if self._server:
            self._server.close()
        self._selector.close()

    def _receive(self) -> None:
        for key, _ in self._selector.select(_TICK_S):
            if key.fileobj is self._server:
                self._accept()
            else:
                self._read(key.data)

    def _accept(self) -> None:
        assert self._server is not None
        with contextlib.suppress(OSError):
            connection = Connection(self._server.accept()[0])
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _read(self, connection: Connection) -> None:
        for message in connection.receive():
            if connection.rank < 0:
                self._register(connection, message)
            elif message.get("to") == self._asked:  # not a late answer to an earlier question
                self._answers[connection.rank] = message["answer"]
        if connection.closed:
            self._selector.unregister(connection.socket)
            connection.close()
            if connection.rank >= 0:
                self.lost.setdefault(connection.rank, "ended before all was checked")

    def _register(self, connection: Connection, message: Answer) -> None:
        """The first message of a rank; anything else is not one of ours."""
        if message.get("token") != self._identity.token:
            connection.closed = True
            return
        connection.rank = int(message["rank"])
        self._connections[connection.rank] = connection
        self.hosts[connection.rank] = str(message["host"])
        connection.send({"welcome": self._identity.token})


def _listen(identity: Identity) -> socket.socket:
    """A server on the first free one of the ports. Raises RankError where none is free."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    for port in identity.ports:
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=4096)
    ports = f"{identity.ports[0]}-{identity.ports[-1]}"
    raise RankError(f"{identity.host}: ports {ports} are in use (they follow MASTER_PORT); set another MASTER_PORT")


def follow(identity: Identity, stages: Stages, connect_s: float, silence_s: float) -> None:
    """The other ranks: connects to rank 0 and carries out its stages until it sends the end.

    connect_s: how long to try. silence_s: how long rank 0 may be silent. Raises RankError where rank 0 cannot be
    reached, or is lost.
    """
    connected, lines = _connect(identity, connect_s)
    with connected, lines:
        connected.settimeout(silence_s)
        try:
            for line in lines:
                message = json.loads(line)
                if "end" in message:
                    return
                name = message["ask"]
                answer = {"time": time.time()} if name.startswith(_CLOCK) else stages[name](message["task"])
                lines.write(json.dumps({"to": name, "answer": answer}) + "\n")
                lines.flush()
        except OSError as error:
            raise RankError(f"{_name(identity)}: lost rank 0 ({error}); see what rank 0 prints") from error
    raise RankError(f"{_name(identity)}: rank 0 ended before all was checked; see what it prints")


def _connect(identity: Identity, limit_s: float) -> tuple[socket.socket, TextIO]:
    deadline, why = time.monotonic() + limit_s, ""
    while True:
        for port in identity.ports:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise RankError(
                    f"{_name(identity)}: cannot reach rank 0 at {identity.address}:{identity.ports[0]} ({why}); check "
                    "that this name resolves here (getent hosts), the network and the firewall between the nodes"
                )
            try:
                return _greet(identity, port, min(_CONNECT_S, left_s))
            except (OSError, ValueError) as error:
                why = why if port != identity.ports[0] and why else str(error)
        time.sleep(_RETRY_S)


def _greet(identity: Identity, port: int, limit_s: float) -> tuple[socket.socket, TextIO]:
    """Connects and waits for rank 0's welcome: another program may listen on the port. Raises OSError, ValueError."""
    connected = socket.create_connection((identity.address, port), timeout=limit_s)
    try:
        lines = connected.makefile("rw", encoding="utf-8")
        hello = {"token": identity.token, "rank": identity.rank, "host": identity.host}
        lines.write(json.dumps(hello) + "\n")
        lines.flush()
        if json.loads(lines.readline() or "{}").get("welcome") != identity.token:
            raise OSError("another program listens there")
    except BaseException:
        connected.close()
        raise
    return connected, lines


def _name(identity: Identity) -> str:
    return f"rank {identity.rank} on {identity.host}"
