"""One start of a run ("attempt"): folder lock, watchdog, signals, exit status.

rank 0      RUN/lock.json (kws/run/lock.py); looks for RUN/stop every second; writes RUN/status.json
every rank  stop signals (kws/distributed/signals.py); watchdog (kws/distributed/watchdog.py)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from kws.distributed import process_group, slurm
from kws.distributed.ranks import Ranks
from kws.distributed.signals import StopRequest
from kws.distributed.watchdog import Watchdog
from kws.errors import PeerError, user_message
from kws.run import folder as run_folder
from kws.run import lock
from kws.run.early_stop import Start

FAILURE, USAGE_ERROR = 1, 2
"""Exit codes that status.json records for a failed attempt."""


class Attempt:
    """Context manager around everything that one start of a run does; all ranks enter and leave it together.

    `step` returns the number of updates done, for status.json. Entering raises UsageError if another process holds the
    folder. `start`: what begin_start returned. If a collective operation inside fails because another process failed,
    the error is replaced by a PeerError that names that process.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, hang_s: float, step: Callable[[], int], start: Start | None = None
    ) -> None:
        self._folder, self._ranks, self._hang_s, self._step = folder, ranks, hang_s, step
        self._accepted = False
        self._start = start

    def __enter__(self) -> Attempt:
        self.stop = self._start.stop if self._start else StopRequest()
        self._ranks.on_main(self._lock_folder)
        self.watchdog = Watchdog(
            self._ranks, process_group.main_address(), self.stop, self._hang_s,
            on_fault=lambda text: self._write_failure(FAILURE, text),
        )  # fmt: skip
        if self._ranks.world_size > 1:
            self.stop.begin()  # together: from here on a rank that leaves alone would be a fault
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._close(None)
            return
        # A failed collective operation does not show which process caused it; the watchdog does.
        usage_error = user_message(error)
        is_of_peer = isinstance(error, RuntimeError) and usage_error is None
        peer_fault = self.watchdog.wait_for_fault() if is_of_peer else None
        reason = peer_fault or usage_error or str(error) or type(error).__name__
        self._write_failure(USAGE_ERROR if usage_error else FAILURE, reason)
        self._close(reason)
        if peer_fault:
            raise PeerError(peer_fault if self.watchdog.prints_fault else "") from error

    def begin(self) -> None:
        """Call once the run is accepted: from now on status.json describes this attempt.

        An attempt that is refused before leaves the status.json of the attempt before it unchanged.
        """
        self.write_status("running")
        self._accepted = True

    def write_status(self, state: str, code: int | None = None) -> None:
        """Writes status.json on rank 0, with the first stop signal and the rank that received it. Collective."""
        signals = self._ranks.gather(self.stop.received)
        rank = next((rank for rank, signal in enumerate(signals) if signal), 0)
        received = {"rank": rank, "signal": signals[rank]}
        self._ranks.on_main(lambda: run_folder.write_status(self._folder, state, self._step(), code, **received))

    def _lock_folder(self) -> None:
        self._lock = lock.acquire(self._folder, slurm.job_id())
        if self._start is None or self._start.early.is_stale():
            (self._folder / "stop").unlink(missing_ok=True)  # it was meant for an earlier attempt
        self._lock.start_heartbeat(_exit_without_lock, self._check_stop_file)

    def _check_stop_file(self) -> None:
        if (self._folder / "stop").exists():
            self.stop.request(None)

    def _write_failure(self, code: int, reason: str) -> None:
        if self._accepted:
            run_folder.write_failure(self._folder, self._step(), code, self._ranks.rank, reason)

    def _close(self, reason: str | None) -> None:
        """Disconnects from the other ranks, then releases the folder."""
        self.watchdog.close(reason)
        if self._ranks.is_main:
            self._lock.release()


def _exit_without_lock(reason: str) -> None:
    """Another process writes to the folder now, so this one must stop at once."""
    print(f"kws: {reason}", file=sys.stderr, flush=True)
    os._exit(FAILURE)
