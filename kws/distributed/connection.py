"""A connection between two ranks for the watchdog: lines of JSON over a socket, never blocking."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

_MAX_LINE_BYTES = 1 << 20

Activity = tuple[str, float, bool]
"""What a rank is doing, for how many seconds without progress, and whether that may take any time."""


class Connection:
    """A socket to another rank, and what that rank has sent last.

    `name` is empty until the rank is known; `left`: it ended in order; `error`: what it failed with.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket, self.name, self.rank = connected, "", -1
        self.received_at, self.closed, self.left = time.monotonic(), False, False
        self.error: str | None = None
        self.activity: Activity = ("starting", 0.0, True)
        self._received, self._unsent = b"", b""
        connected.setblocking(False)

    def send(self, message: dict[str, Any]) -> None:
        """Sends the message; what the network does not take now is sent with a later message."""
        self._unsent += json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; sets `closed` when the other side has closed the connection."""
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.closed, self.received_at = not data, time.monotonic()
        *lines, self._received = (self._received + data).split(b"\n")
        self.closed = self.closed or len(self._received) > _MAX_LINE_BYTES  # not one of our ranks
        return [message for line in lines if (message := _parse(line)) is not None]

    def close(self) -> None:
        """Closes the socket without waiting."""
        with contextlib.suppress(OSError):
            self.socket.close()


def _parse(line: bytes) -> dict[str, Any] | None:
    """The message of a line; None for a line that is none: a port scanner may have sent it."""
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(line)
        return message if isinstance(message, dict) else None
    return None
