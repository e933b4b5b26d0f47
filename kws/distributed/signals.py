"""Stop signals: any number of them, on any rank, become one request that the training loop reads."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)


class StopRequest:
    """True once a stop signal arrived here or at another rank, or RUN/stop was found.

    Only a second SIGINT, at least FORCE_AFTER_S seconds after the first, ends the process at once with exit code 130.
    Checkpoints are renamed into place whole, so even then no file is left half-written.

    A thread receives the signals. Python runs a signal handler only between two of its own instructions, so not while
    a collective operation waits for a stalled rank, which is when Ctrl-C is most needed.

    leave: ends the process; called with a signal that arrives before `begin`, when there is nothing to save.
    """

    FORCE_AFTER_S = 3.0

    def __init__(self, leave: Callable[[int], None] | None = None) -> None:
        self._leave = leave
        self.requested = False
        self.signal: int | None = None
        """The first signal that arrived here or at another rank, or None."""
        self.received: int | None = None
        """The first signal that this process itself received, or None."""
        self._first_interrupt = math.inf
        receiver, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if not is_ignored_hangup(number):
                signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._listen, args=(receiver,), name="signals", daemon=True).start()

    def _listen(self, receiver: socket.socket) -> None:
        while True:
            for number in receiver.recv(64):
                if number in STOP_SIGNALS:  # other signals may have handlers too
                    self._handle(number)

    def begin(self) -> None:
        """From now on a signal is a request to save and stop."""
        self._leave = None

    def _handle(self, number: int) -> None:
        if self._leave:
            self._leave(number)
        self.received = self.received or number
        self.request(number)
        if number == signal.SIGINT:
            now = time.monotonic()
            if now - self._first_interrupt >= self.FORCE_AFTER_S:
                if sys.stdout.isatty():
                    os.write(1, b"\033[?25h")  # show the cursor again, which a live display hides
                os._exit(130)
            self._first_interrupt = min(now, self._first_interrupt)

    def request(self, number: int | None) -> None:
        """Requests a stop, by signal `number` or for another reason (None). The first signal is the one reported."""
        self.signal = self.signal or number
        self.requested = True

    def __bool__(self) -> bool:
        return self.requested


def is_ignored_hangup(number: int) -> bool:
    """Whether this is SIGHUP and nohup, or a shell that disowns, has set it to be ignored: then it stays so."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


def ignore_stop_signals() -> None:
    """For a process that only has to exit. Python restores the default handlers before it exits, and one more stop
    signal at that moment would change the exit code."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
