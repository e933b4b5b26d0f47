"""One process per run folder: RUN/lock.json names the holder, and the file's modification time is its heartbeat.

A lock is free again when the process that holds it has ended (checked on the same host), when it belongs to the same
cluster job before it was requeued, or when its heartbeat is older than DEAD_S. It is not a kernel lock: some cluster
file systems have none, and on others such a lock outlives a lost node.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from kws import files
from kws.errors import UsageError, cannot_write

HEARTBEAT_S, DEAD_S = 5.0, 60.0
_STOP_CHECK_S = 1.0
_NAME = "lock.json"


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a run folder, as lock.json stores it.

    `began`: start time of the process in clock ticks since the host booted, because process ids are reused.
    """

    host: str
    process: int
    began: str
    job: str | None
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" + (f" (job {self.job})" if self.job else "")


class Lock:
    """A run folder held by this process."""

    def __init__(self, run: Path, holder: Holder) -> None:
        self._path, self._holder = run / _NAME, holder
        self._released = threading.Event()
        self._threads: list[threading.Thread] = []

    def start_heartbeat(
        self, on_lost: Callable[[str], None], check_stop: Callable[[], None], interval_s: float = HEARTBEAT_S
    ) -> None:
        """Starts two threads: one updates the heartbeat, the other calls `check_stop` every second.

        `on_lost` is called with a message when another process holds the folder or lock.json was removed; then the
        heartbeat ends.
        """

        def heartbeat() -> None:
            while not self._released.wait(interval_s):
                lost = self._touch()
                if lost:
                    on_lost(lost)
                    return

        def stop_check() -> None:
            while not self._released.wait(_STOP_CHECK_S):
                check_stop()

        for work in (heartbeat, stop_check):
            self._threads.append(threading.Thread(target=work, name=f"lock {work.__name__}", daemon=True))
            self._threads[-1].start()

    def _touch(self) -> str | None:
        """Updates the heartbeat. Returns None, or why this process no longer holds the lock."""
        try:
            found = _read(self._path)
            if found and found.token == self._holder.token:
                os.utime(self._path)
                return None
        except OSError:
            return None  # the file system does not answer: the heartbeat grows old, and the next call tries again
        return f"{self._path.parent}: taken over by {found}" if found else f"{self._path}: was removed"

    def release(self) -> None:
        """Ends the threads and removes lock.json if it is still this process's."""
        self._released.set()
        for thread in self._threads:
            thread.join(HEARTBEAT_S)  # with a limit: the file system may not answer
        with contextlib.suppress(OSError):
            found = _read(self._path)
            if found and found.token == self._holder.token:
                self._path.unlink()


def acquire(run: Path, job: str | None = None) -> Lock:
    """Takes the run folder for this process, and creates the folder if it does not exist.

    `job`: id of the cluster job that this process is part of. Raises UsageError if another process holds the folder,
    naming it, or if the folder cannot be written.
    """
    since = datetime.now().isoformat(" ", "seconds")
    holder = Holder(socket.gethostname(), os.getpid(), _start_ticks(os.getpid()), job, since, secrets.token_hex(8))
    try:
        run.mkdir(parents=True, exist_ok=True)
        with _check_and_take(run):
            refuse_if_in_use(run, job)
            (run / _NAME).unlink(missing_ok=True)
            _create(run / _NAME, holder)
    except OSError as error:
        raise UsageError(cannot_write(run, error, "use --run ANOTHER_FOLDER")) from error
    return Lock(run, holder)


def find_holder(run: Path) -> Holder | None:
    """The living process that holds the folder; None if there is none."""
    found = _read(run / _NAME)
    return found if found and _is_alive(run, found) else None


def refuse_if_in_use(run: Path, job: str | None = None) -> None:
    """Raises UsageError if a living process holds the folder, unless it belongs to the same cluster job `job` on
    another host: that is this job before it was requeued."""
    found = find_holder(run)
    if found is None:
        return
    same_host = found.host == socket.gethostname()
    if job is not None and found.job == job and not same_host:
        return
    since, wait = found.since, "wait for it to end"
    if not same_host:  # on the same host the process is known to live, and --check must not write to the folder
        since += f", last heartbeat {_heartbeat_age_s(run):.0f} s ago"
        wait += f" (or {DEAD_S:.0f} s, if it is dead)"
    raise UsageError(f"{run}: in use by {found} since {since}; {wait}, or use --run ANOTHER_FOLDER")


def _is_alive(run: Path, found: Holder) -> bool:
    if found.host == socket.gethostname():
        return _start_ticks(found.process) == found.began != ""
    return _heartbeat_age_s(run) < DEAD_S


def _heartbeat_age_s(run: Path) -> float:
    """Seconds since the last heartbeat by the file server's clock, because the clocks of hosts may differ.

    A heartbeat in the future is from a clock that ran ahead, or the clock was set back since. Its file's time is set to
    now, so that it grows old like any other: a living holder renews it, and the lock of a dead one becomes free.
    """
    probe = run / f".clock-{secrets.token_hex(4)}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # no permission to write here
        now = time.time()
    try:
        age_s = now - (run / _NAME).stat().st_mtime
        if age_s < -HEARTBEAT_S:
            os.utime(run / _NAME, (now, now))
    except OSError:
        return 0.0
    return max(0.0, age_s)


def _create(path: Path, holder: Holder) -> None:
    try:
        files.create_text(path, json.dumps(dataclasses.asdict(holder)) + "\n")
    except FileExistsError:
        raise UsageError(f"{path.parent}: just taken by another kws train; use --run ANOTHER_FOLDER") from None


@contextlib.contextmanager
def _check_and_take(run: Path) -> Iterator[None]:
    """Around checking for a holder and taking the folder: one process at a time, where the file system has flock."""
    with (run / ".lock").open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Holder | None:
    """The holder in a lock file; None if there is no file or it is not readable as one."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None


def _start_ticks(process: int) -> str:
    """Start time of a process of this host in clock ticks; "" if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
