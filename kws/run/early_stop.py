"""Stop requests that arrive before the first step, while torch is imported, the ranks meet or the corpus is read.

signal -> a line, status.json "preempted", exit code 75      RUN/stop -> kept for the attempt that is starting
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from kws.distributed.signals import StopRequest

PREEMPTED = 75


class EarlyStop:
    """The run folder as a starting attempt finds it. To be made before anything slow is imported."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._stop_found = self._stop_time()

    def is_stale(self) -> bool:
        """Whether RUN/stop was there when this process started: then it was meant for an earlier attempt."""
        return self._stop_time() == self._stop_found

    def _stop_time(self) -> int | None:
        try:
            return (self._run / "stop").stat().st_mtime_ns
        except OSError:
            return None

    def leave(self, number: int) -> NoReturn:
        """Ends this process: nothing is lost, because no step was done since the last checkpoint."""
        rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)
        with contextlib.suppress(OSError, ValueError):
            self._write_status(number, rank)
        if rank == 0:
            with contextlib.suppress(OSError, ValueError):
                where = f"{self._run}: stopped before the first step: nothing to save"
                print(f"kws: {where}; run the same command again", file=sys.stderr, flush=True)
        os._exit(PREEMPTED)

    def _write_status(self, number: int, rank: int) -> None:
        """Writes status.json, by which job scripts decide, unless another process uses the folder or it is finished."""
        from kws.run import folder as run_folder
        from kws.run import lock

        holder = lock.find_holder(self._run)
        if holder and (holder.process, holder.host) == (os.getpid(), socket.gethostname()):
            (self._run / "lock.json").unlink(missing_ok=True)
        elif holder:
            return
        path = self._run / "status.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if before.get("state") != "finished":
            self._run.mkdir(parents=True, exist_ok=True)
            step = int(before.get("step") or 0)
            run_folder.write_status(self._run, "preempted", step, PREEMPTED, rank=rank, signal=number)


class Start(NamedTuple):
    """What is known since the command started, before ranks and corpus are."""

    stop: StopRequest
    early: EarlyStop


def begin_start(folder: Path) -> Start:
    """From now on a stop signal ends the process in order. To be called before anything slow is imported."""
    early = EarlyStop(folder)
    return Start(StopRequest(early.leave), early)
