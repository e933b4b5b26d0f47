"""Watchdog: a thread in every rank that detects dead or stalled ranks and forwards stop requests.

A collective operation only blocks or fails; it does not show which rank caused that. So each rank keeps a connection to
rank 0, beside the process group, and sends a line of JSON every HEARTBEAT_S: its activity, a stop request it received,
or the error it leaves with. Rank 0 sends what concerns all ranks to all of them.

    rank 1 --+
    rank 2 --+-- rank 0
    rank 3 --+

Three faults end all ranks with exit code 1 and a message that names the rank at fault:

    dead           its connection closed without a goodbye
    no answer      no line for DEAD_S; a network that fails for 20 s is survived, because the kernel keeps the lines
    stalled        no rank reported progress for train.hang_s
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kws.distributed.connection import Activity, Connection
from kws.distributed.process_group import START_S
from kws.distributed.ranks import Ranks
from kws.distributed.signals import StopRequest

HEARTBEAT_S, DEAD_S, GRACE_S = 5.0, 60.0, 15.0
_GPU_GRACE_S = 3.0
"""With NCCL the training does not leave by itself: it waits for the GPU, which waits for the missing rank."""
_TICK_S = 0.5
_CONNECT_TIMEOUT_S = 20.0
SYNCHRONISING = "computing and exchanging gradients"
"""The activity of a rank that may be waiting for other ranks: it is not at fault if another rank is elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What ends a run, as rank 0 sends it to every rank."""

    text: str
    rank: int = -1
    """The rank at fault; -1 if unknown."""
    printed: bool = False
    """Whether the rank at fault prints its error itself."""
    print_stacks_of: Sequence[int] = ()
    """Ranks that print the stacks of their threads."""
    grace_s: float = GRACE_S
    """Seconds in which the training may leave by itself."""


class Watchdog:
    """The watchdog of one rank.

    `fault`: what ends the run, or None. `unreachable`: ranks that could not connect to rank 0, whose end is not
    noticed here.

    `on_fault` is called with the fault's text, in a thread, as soon as it is known. The training then has `grace_s`
    seconds to leave by itself, because its next collective operation fails; after that the process exits with code 1.
    On GPUs the fault is printed at once and the time is shorter.
    """

    def __init__(
        self, ranks: Ranks, address: str, stop: StopRequest, hang_s: float, on_fault: Callable[[str], None],
        dead_s: float = DEAD_S, start_s: float = START_S,
    ) -> None:  # fmt: skip
        self._world_size = ranks.world_size
        self._rank, self._stop, self._on_fault = ranks.rank, stop, on_fault
        self._hang_s, self._dead_s = hang_s, dead_s
        self.name = f"rank {ranks.rank} on {socket.gethostname()} (process {os.getpid()})"
        self.fault: Fault | None = None
        self._on_gpu, self._has_printed = ranks.device.type == "cuda", False
        self._fault_known, self._closing = threading.Event(), threading.Event()
        self._activity, self._progress_at = "starting", time.monotonic()
        self._in_first_step = True
        self._start_grace_s = max(0.0, start_s - hang_s)  # what an activity before the end of the first step has more
        self._unlimited = 0  # number of enclosing no_time_limit
        self._exit_at: float | None = None
        self._stop_sent = False
        self._selector = selectors.DefaultSelector()
        self._wakeup_receiver, self._wakeup = socket.socketpair()
        self._selector.register(self._wakeup_receiver, selectors.EVENT_READ, None)
        self._connections: list[Connection] = []
        self._first_on_host = ranks.rank == min((rank for rank in ranks.node_ranks() if rank), default=0)
        self.unreachable = self._connect_ranks(ranks, address)
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    # --- called by the training -------------------------------------------------------------------------------

    def report_progress(self, activity: str) -> None:
        """The training made progress; `activity` is what it does next."""
        self._activity, self._progress_at = activity, time.monotonic()

    def first_step_done(self) -> None:
        """Call after every step. Until the first call an activity may take START_S where hang_s is shorter."""
        self._in_first_step = False

    @contextlib.contextmanager
    def no_time_limit(self, activity: str) -> Iterator[None]:
        """Around an activity that may take any time, such as compiling."""
        self.report_progress(activity)
        self._unlimited += 1
        try:
            yield
        finally:
            self._unlimited -= 1
            self.report_progress(activity)

    def wait_for_fault(self, seconds: float = 5.0) -> str | None:
        """Text of the fault of another rank, waiting up to `seconds` for it to arrive; None if there is none."""
        if self._world_size > 1:
            self._fault_known.wait(seconds)
        return self.fault.text if self.fault else None

    @property
    def prints_fault(self) -> bool:
        """Whether this rank prints the fault: rank 0, or if that is at fault, one rank of each host."""
        if self.fault is None or self.fault.printed or self._has_printed:
            return False
        return self._rank == 0 or (self.fault.rank == 0 and self._first_on_host)

    def close(self, reason: str | None = None) -> None:
        """Ends the thread and sends a last message to the other ranks; `reason` if this process failed."""
        self._closing.set()
        self._wakeup.send(b".")
        self._thread.join()
        goodbye: dict[str, Any] = {"failed": reason} if reason else {"left": True}
        for connection in self._connections:
            connection.send(goodbye)
            connection.close()
        self._selector.close()
        for own in (self._wakeup_receiver, self._wakeup, self._server):
            if own:
                own.close()

    # --- connecting -------------------------------------------------------------------------------------------

    def _connect_ranks(self, ranks: Ranks, address: str) -> list[int]:
        """Connects every rank to rank 0. Returns the ranks that could not connect. Collective."""
        self._server: socket.socket | None = None
        if ranks.world_size == 1:
            return []
        if ranks.is_main:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=4096)
            self._selector.register(self._server, selectors.EVENT_READ, None)
        port = self._server.getsockname()[1] if self._server else 0
        port, self._token, main_name = ranks.on_main(lambda: (port, secrets.token_hex(16), self.name))
        connected = ranks.is_main or self._connect_to_main(address, port, main_name)
        return [rank for rank, reached in enumerate(ranks.gather(connected)) if not reached]

    def _connect_to_main(self, address: str, port: int, main_name: str) -> bool:
        try:
            connection = Connection(socket.create_connection((address, port), timeout=_CONNECT_TIMEOUT_S))
        except OSError:
            return False
        connection.name, connection.rank = main_name, 0
        connection.send({"token": self._token, "rank": self._rank, "name": self.name})
        self._add(connection)
        return True

    def _add(self, connection: Connection) -> None:
        self._connections.append(connection)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last_heartbeat = last_tick = 0.0
        while not self._closing.is_set():
            ready = self._selector.select(_TICK_S)
            now = time.monotonic()
            if last_tick and now - last_tick > HEARTBEAT_S:
                self._skip_pause(now - last_tick)
            last_tick = now
            for key, _ in ready:
                self._receive_from(key.fileobj, key.data)
            if now - last_heartbeat >= min(HEARTBEAT_S, self._dead_s / 4):
                self._send_to_all({"at": self._own_activity(now)})
                last_heartbeat = now
            self._forward_stop()
            self._check_silent_ranks(now)
            if self._rank == 0 and self._hang_s:
                self._check_stalled(now)
            self._exit_after_grace(now)

    def _skip_pause(self, seconds: float) -> None:
        """This process itself was paused for `seconds` (Ctrl-Z, a suspended machine): no other rank is at fault."""
        for connection in self._connections:
            connection.received_at += seconds
        self._progress_at += seconds

    def _own_activity(self, now: float) -> Activity:
        grace_s = self._start_grace_s if self._in_first_step else 0.0
        return self._activity, now - self._progress_at - grace_s, self._unlimited > 0

    def _send_to_all(self, message: dict[str, Any]) -> None:
        for connection in self._connections:
            if connection.name:
                connection.send(message)

    def _forward_stop(self) -> None:
        if self._stop and not self._stop_sent:
            self._stop_sent = True
            self._send_to_all({"stop": self._stop.signal})

    def _receive_from(self, source: Any, connection: Connection | None) -> None:
        if self._server and source is self._server:
            with contextlib.suppress(OSError):
                self._add(Connection(self._server.accept()[0]))
        elif connection is not None:
            for message in connection.receive():
                self._handle(connection, message)
            if connection.closed:
                self._handle_closed(connection)

    def _handle(self, connection: Connection, message: dict[str, Any]) -> None:
        if self._rank == 0 and not connection.name:  # the first message must hold the token
            if message.get("token") == self._token:
                connection.name, connection.rank = str(message["name"]), int(message["rank"])
                if self._stop_sent:  # before this rank had registered
                    connection.send({"stop": self._stop.signal})
            return
        connection.activity = tuple(message.get("at", connection.activity))
        connection.left = connection.left or "left" in message
        connection.error = message.get("failed", connection.error)
        if "stop" in message:
            self._stop.request(message["stop"])
        if "fault" in message:
            self._set_fault(Fault(**message["fault"]))

    def _handle_closed(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        self._connections.remove(connection)
        connection.close()
        if not connection.name or connection.left:
            return
        if connection.error:
            text, printed = f"{connection.name} failed: {connection.error}", True
        else:
            text, printed = f"{connection.name} ended unexpectedly", False
        self._set_fault_of_all(Fault(text=text, rank=connection.rank, printed=printed))

    # --- faults -----------------------------------------------------------------------------------------------

    def _check_silent_ranks(self, now: float) -> None:
        for connection in list(self._connections):
            if connection.name and not connection.left and now - connection.received_at > self._dead_s:
                text = f"no answer from {connection.name} for {self._dead_s:.0f} s"
                self._set_fault_of_all(Fault(text=text, rank=connection.rank))

    def _check_stalled(self, now: float) -> None:
        """A stalled rank stops all others too, so the run is stalled only when no rank makes progress."""
        activities: dict[int, Activity] = {0: self._own_activity(now)}
        for connection in self._connections:
            if connection.name:
                activity, idle_s, unlimited = connection.activity
                activities[connection.rank] = (activity, idle_s + now - connection.received_at, unlimited)
        if any(unlimited or idle_s <= self._hang_s for _, idle_s, unlimited in activities.values()):
            return
        ranks_at: dict[str, list[int]] = {}
        for rank, (activity, _, _) in sorted(activities.items()):
            ranks_at.setdefault(activity, []).append(rank)
        # The likely culprits first: ranks that do not wait for others, and the smallest group.
        groups = sorted(ranks_at.items(), key=lambda group: (group[0] == SYNCHRONISING, len(group[1])))
        listed = "; ".join(f"rank{'s' * (len(r) > 1)} {', '.join(map(str, r))}: {activity}" for activity, r in groups)
        text = f"no progress for {self._hang_s:.0f} s (train.hang_s): {listed}"
        self._set_fault_of_all(Fault(text=text, print_stacks_of=groups[0][1], grace_s=2.0))

    def _set_fault_of_all(self, fault: Fault) -> None:
        if self.fault is None and self._rank == 0:
            self._send_to_all({"fault": dataclasses.asdict(fault)})
        self._set_fault(fault)

    def _set_fault(self, fault: Fault) -> None:
        """Keeps the first fault and starts its grace period."""
        if self.fault is not None:
            return
        grace_s = min(fault.grace_s, _GPU_GRACE_S) if self._on_gpu else fault.grace_s
        self.fault, self._exit_at = fault, time.monotonic() + grace_s
        if self._on_gpu:
            self._print_fault()
        self._fault_known.set()
        if self._rank in fault.print_stacks_of:
            faulthandler.dump_traceback(all_threads=True)
        # In a thread of its own, because the file system that it writes to may be what has stalled.
        threading.Thread(target=self._on_fault, args=(fault.text,), daemon=True).start()

    def _exit_after_grace(self, now: float) -> None:
        if self._exit_at is None or now < self._exit_at or self._closing.is_set():
            return
        self._print_fault()
        os._exit(1)

    def _print_fault(self) -> None:
        if self.fault and self.prints_fault:
            self._has_printed = True
            print(f"kws: {self.fault.text}", file=sys.stderr, flush=True)
