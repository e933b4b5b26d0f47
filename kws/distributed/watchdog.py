"""A thread beside the training, for what a collective operation cannot say: who is gone, who hangs, who is to stop.

    rank 1 --+     a line of JSON every BEAT_S, each way: where it is, that it was asked to stop, why it leaves
    rank 2 --+-- rank 0, which tells all what one has heard
    rank 3 --+

Closed without a goodbye: that process is gone. No line for DEAD_S: no answer; a network that is away for 20 s is
survived, the lines wait in the kernel. No rank got on for hang_s: hanging. Each ends all ranks with code 1 and a line
that names it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kws.distributed.ranks import Ranks
from kws.distributed.signals import StopRequest

BEAT_S, DEAD_S, GRACE_S = 5.0, 60.0, 15.0
_TICK_S = 0.5
ADDING_UP = "computing and adding up"
"""What a process is at where it may wait for the others: it is not to blame if another is elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What ends a run. `about`: the rank at fault; `said`: that one says it itself; `stacks`: who shows where it is."""

    text: str
    about: int = -1
    said: bool = False
    stacks: Sequence[int] = ()
    grace_s: float = GRACE_S


class Watchdog:
    """Of one process of a run. `fault`: what ends the run, where something does.

    `failed` is called with its text, in a thread, as soon as it is known; the training may then leave by itself (its
    next collective operation fails) for `grace_s`, after which the process ends.
    """

    def __init__(
        self, runtime: Ranks, address: str, stop: StopRequest, hang_s: float, failed: Callable[[str], None],
        dead_s: float = DEAD_S,
    ) -> None:  # fmt: skip
        self._rank, self._stop, self._failed = runtime.rank, stop, failed
        self._hang_s, self._dead_s = hang_s, dead_s
        self.name = f"rank {runtime.rank} on {socket.gethostname()} (process {os.getpid()})"
        self.fault: Fault | None = None
        self._known, self._leaving = threading.Event(), threading.Event()
        self._doing, self._since, self._patience = "starting", time.monotonic(), 1
        self._starting = True
        self._ends_at: float | None = None
        self._stop_told = False
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._lines: list[_Line] = []
        self._first_here = runtime.rank == min((rank for rank in runtime.node_ranks() if rank), default=0)
        self.unreachable = self._meet(runtime, address)
        """Ranks that could not reach rank 0: nobody hears of their end in this way."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    # --- what the training says -------------------------------------------------------------------------------

    def doing(self, what: str) -> None:
        """The training got on, and is at `what` now."""
        self._doing, self._since = what, time.monotonic()

    def started(self) -> None:
        """A step is done: until then patience had no end."""
        self._patience -= self._starting
        self._starting = False

    @contextlib.contextmanager
    def patiently(self, what: str) -> Iterator[None]:
        """Around what may take as long as it likes, such as compiling."""
        self.doing(what)
        self._patience += 1
        try:
            yield
        finally:
            self._patience -= 1
            self.doing(what)

    def explanation(self, seconds: float = 5.0) -> str | None:
        """Why a collective operation failed, where it is another process's doing: waits so long for the news."""
        if self._lines:
            self._known.wait(seconds)
        return self.fault.text if self.fault else None

    @property
    def speaks(self) -> bool:
        """Whether this rank prints the fault: rank 0, or where that is gone one of each host."""
        if self.fault is None or self.fault.said:
            return False
        return self._rank == 0 or (self.fault.about == 0 and self._first_here)

    def leave(self, why: str | None = None) -> None:
        """Ends the thread, and says goodbye; `why` where this process failed."""
        self._leaving.set()
        self._wake.send(b".")
        self._thread.join()
        goodbye: dict[str, Any] = {"failed": why} if why else {"left": True}
        for line in self._lines:
            line.send(goodbye)
            line.close()
        self._selector.close()
        for own in (self._woken, self._wake, self._server):
            if own:
                own.close()

    # --- meeting ----------------------------------------------------------------------------------------------

    def _meet(self, runtime: Ranks, address: str) -> list[int]:
        self._server: socket.socket | None = None
        if runtime.world_size == 1:
            return []
        if runtime.is_main:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=both, backlog=4096)
            self._selector.register(self._server, selectors.EVENT_READ, None)
        port = self._server.getsockname()[1] if self._server else 0
        port, self._token, main = runtime.on_main(lambda: (port, secrets.token_hex(16), self.name))
        reached = runtime.is_main or self._connect(address, port, main)
        return [rank for rank, there in enumerate(runtime.gather(reached)) if not there]

    def _connect(self, address: str, port: int, name: str) -> bool:
        try:
            line = _Line(socket.create_connection((address, port), timeout=20.0))
        except OSError:
            return False
        line.name, line.rank = name, 0
        line.send({"token": self._token, "rank": self._rank, "name": self.name})
        self._add(line)
        return True

    def _add(self, line: _Line) -> None:
        self._lines.append(line)
        self._selector.register(line.socket, selectors.EVENT_READ, line)

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        last_beat = last_tick = 0.0
        while not self._leaving.is_set():
            ready = self._selector.select(_TICK_S)
            now = time.monotonic()
            if last_tick and now - last_tick > BEAT_S:
                self._forgive(now - last_tick)
            last_tick = now
            for key, _ in ready:
                self._hear(key.fileobj, key.data)
            if now - last_beat >= min(BEAT_S, self._dead_s / 4):
                self._tell({"at": self._where(now)})
                last_beat = now
            self._tell_stop()
            self._judge(now)

    def _forgive(self, seconds: float) -> None:
        """This process itself was stopped so long (Ctrl-Z, a paused machine): nobody else is to blame for it."""
        for line in self._lines:
            line.heard += seconds
        self._since += seconds

    def _where(self, now: float) -> tuple[str, float, bool]:
        return self._doing, now - self._since, self._patience > 0

    def _tell(self, message: dict[str, Any]) -> None:
        for line in self._lines:
            if line.name:
                line.send(message)

    def _tell_stop(self) -> None:
        if self._stop and not self._stop_told:
            self._stop_told = True
            self._tell({"stop": self._stop.signal})

    def _hear(self, source: Any, line: _Line | None) -> None:
        if self._server and source is self._server:
            with contextlib.suppress(OSError):
                self._add(_Line(self._server.accept()[0]))
        elif line is not None:
            for message in line.receive():
                self._take(line, message)
            if line.closed:
                self._closed(line)

    def _take(self, line: _Line, message: dict[str, Any]) -> None:
        if self._rank == 0 and not line.name:
            if message.get("token") == self._token:
                line.name, line.rank = str(message["name"]), int(message["rank"])
            return
        line.at = tuple(message.get("at", line.at))
        line.left = line.left or "left" in message
        line.why = message.get("failed", line.why)
        if "stop" in message:
            self._stop.request(message["stop"])
        if "fault" in message:
            self._note(Fault(**message["fault"]))

    def _closed(self, line: _Line) -> None:
        self._selector.unregister(line.socket)
        self._lines.remove(line)
        line.close()
        if not line.name or line.left:
            return
        if line.why:
            self._spread(Fault(text=f"{line.name} failed: {line.why}", about=line.rank, said=True))
        else:
            self._spread(Fault(text=f"{line.name} is gone", about=line.rank))

    def _judge(self, now: float) -> None:
        for line in list(self._lines):
            if line.name and not line.left and now - line.heard > self._dead_s:
                self._spread(Fault(text=f"no answer from {line.name} for {self._dead_s:.0f} s", about=line.rank))
        if self._rank == 0 and self._hang_s:
            self._judge_progress(now)
        if self._ends_at is not None and now >= self._ends_at and not self._leaving.is_set():
            if self.fault and self.speaks:
                print(f"kws: {self.fault.text}", file=sys.stderr, flush=True)
            os._exit(1)

    def _judge_progress(self, now: float) -> None:
        """A rank that is stuck holds up all, so only where none gets on is one stuck."""
        places = {0: self._where(now)}
        for line in self._lines:
            if line.name:
                places[line.rank] = (line.at[0], line.at[1] + now - line.heard, line.at[2])
        if any(patient or idle_s <= self._hang_s for _, idle_s, patient in places.values()):
            return
        groups: dict[str, list[int]] = {}
        for rank, (doing, _, _) in sorted(places.items()):
            groups.setdefault(doing, []).append(rank)
        ordered = sorted(groups.items(), key=lambda group: (group[0] == ADDING_UP, len(group[1])))
        told = "; ".join(f"rank{'s' * (len(r) > 1)} {', '.join(map(str, r))}: {doing}" for doing, r in ordered)
        told = f"no progress for {self._hang_s:.0f} s (train.hang_s): {told}"
        self._spread(Fault(text=told, stacks=ordered[0][1], grace_s=2.0))

    def _spread(self, fault: Fault) -> None:
        if self.fault is None and self._rank == 0:
            self._tell({"fault": dataclasses.asdict(fault)})
        self._note(fault)

    def _note(self, fault: Fault) -> None:
        if self.fault is not None:
            return
        self.fault, self._ends_at = fault, time.monotonic() + fault.grace_s
        self._known.set()
        if self._rank in fault.stacks:
            faulthandler.dump_traceback(all_threads=True)
        # In a thread of its own: what it writes to may be what hangs.
        threading.Thread(target=self._failed, args=(fault.text,), daemon=True).start()


class _Line:
    """A connection: whole lines in, lines out that never keep the thread waiting."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket, self.name, self.rank = connected, "", -1
        self.heard, self.closed, self.left = time.monotonic(), False, False
        self.why: str | None = None
        self.at: tuple[Any, ...] = ("starting", 0.0, True)
        self._in, self._out = b"", b""
        connected.setblocking(False)

    def send(self, message: dict[str, Any]) -> None:
        """Now or with a later one, while the network is away."""
        self._out += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._out = self._out[self.socket.send(self._out) :]

    def receive(self) -> list[dict[str, Any]]:
        """What has come; sets `closed` at the end of it."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.closed, self.heard = not data, time.monotonic()
        *whole, self._in = (self._in + data).split(b"\n")
        self.closed = self.closed or len(self._in) > 1 << 20  # nobody of ours
        with contextlib.suppress(ValueError):
            return [message for text in whole if isinstance(message := json.loads(text), dict)]
        return []

    def close(self) -> None:
        """Without waiting."""
        with contextlib.suppress(OSError):
            self.socket.close()
