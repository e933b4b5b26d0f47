"""A start of a run among its processes: who has the folder, who is gone, who is to stop, and how it ended.

rank 0: RUN/lock.json (kws/run/lock.py), RUN/stop       all: signals, the watch (kws/distributed/watchdog.py)       -> RUN/status.json
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


class Attempt:
    """Around all that a start does, by every process. `step` tells how far the run is.

    Raises UsageError where another job has the folder; within, a collective operation that failed because another
    process did becomes a PeerError that names it.
    """

    def __init__(self, folder: Path, here: Ranks, hang_s: float, step: Callable[[], int]) -> None:
        self._folder, self._runtime, self._hang_s, self._step = folder, here, hang_s, step
        self._running = False

    def __enter__(self) -> Attempt:
        self.stop = StopRequest()
        self._runtime.on_main(self._take_folder)
        address, failed = process_group.main_address(), lambda why: self._write_failure(1, why)
        self.watchdog = Watchdog(self._runtime, address, self.stop, self._hang_s, failed)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._leave(None)
            return
        # A collective operation only says that it failed; the watch, whose doing it was.
        whose = self.watchdog.explanation() if isinstance(error, RuntimeError) else None
        line = None if whose else user_message(error)
        why = whose or line or str(error) or type(error).__name__
        self._write_failure(2 if line else 1, why)
        self._leave(why)
        if whose:
            raise PeerError(whose if self.watchdog.speaks else "") from error

    def begin(self) -> None:
        """The run is accepted: from here on status.json is of this start. One that is refused leaves it alone."""
        self.status("running")
        self._running = True

    def status(self, state: str, code: int | None = None) -> None:
        """By all processes: rank 0 writes it, with the first signal that any of them got."""
        heard = self._runtime.gather(self.stop.signal)
        rank = next((rank for rank, signal in enumerate(heard) if signal), 0)
        more = {"rank": rank, "signal": heard[rank]}
        self._runtime.on_main(lambda: run_folder.write_status(self._folder, state, self._step(), code, **more))

    def _take_folder(self) -> None:
        self._lock = lock.take(self._folder, slurm.job_id())
        (self._folder / "stop").unlink(missing_ok=True)  # asked of an earlier start: before this one looks for it
        self._lock.keep(_lost_folder, self._look_for_stop)

    def _look_for_stop(self) -> None:
        if (self._folder / "stop").exists():
            self.stop.request(None)

    def _write_failure(self, code: int, why: str) -> None:
        if self._running:
            run_folder.write_failure(self._folder, self._step(), code, self._runtime.rank, why)

    def _leave(self, why: str | None) -> None:
        """Lets go of the other processes, then of the folder."""
        self.watchdog.leave(why)
        if self._runtime.is_main:
            self._lock.release()


def _lost_folder(why: str) -> None:
    """Another process writes there now: this one must not, and ends at once."""
    print(f"kws: {why}", file=sys.stderr, flush=True)
    os._exit(1)
