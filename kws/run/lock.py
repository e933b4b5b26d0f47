"""One job a run folder: RUN/lock.json says who has it, and its time of change is the heartbeat.

Free again when that process has ended (on this host), when it was this very job (requeued), or when no heartbeat came
for DEAD_S. Not a kernel lock: those are unknown to some cluster file systems, and outlive a lost node on others.
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

from kws.errors import UsageError

BEAT_S, DEAD_S = 5.0, 60.0
_NAME = "lock.json"


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who has a folder. `began`: of the process, in clock ticks since the host started: numbers are used again."""

    host: str
    process: int
    began: str
    job: str | None
    since: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" + (f" (job {self.job})" if self.job else "")


class Lock:
    """A folder that this process has taken."""

    def __init__(self, run: Path, holder: Holder) -> None:
        self._path, self._holder = run / _NAME, holder
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []

    def keep(self, lost: Callable[[str], None], each: Callable[[], None], beat_s: float = BEAT_S) -> None:
        """Keeps the heartbeat in a thread, which calls `each` every second too. `lost` is told when another process has
        taken the folder, or somebody has removed it; then the heartbeat ends."""

        def beat() -> None:
            while not self._done.wait(beat_s):
                other = self._beat()
                if other:
                    lost(other)
                    return

        def look() -> None:
            while not self._done.wait(1.0):
                each()

        for work in (beat, look):
            self._threads.append(threading.Thread(target=work, name=f"lock {work.__name__}", daemon=True))
            self._threads[-1].start()

    def _beat(self) -> str | None:
        """What has become of the lock, where it is no longer this process's."""
        try:
            found = _read(self._path)
            if found and found.token == self._holder.token:
                os.utime(self._path)
                return None
        except OSError:
            return None  # the file system is away: others see the heartbeat grow old, and this one tries again
        return f"{self._path.parent}: taken by {found}" if found else f"{self._path}: removed by somebody"

    def release(self) -> None:
        """Gives the folder back."""
        self._done.set()
        for thread in self._threads:
            thread.join(BEAT_S)  # no longer: its file system may be away
        with contextlib.suppress(OSError):
            found = _read(self._path)
            if found and found.token == self._holder.token:
                self._path.unlink()


def take(run: Path, job: str | None = None) -> Lock:
    """Takes the folder for this process; makes it where it is new. `job`: the cluster job that this is part of.

    Raises UsageError naming who has it, or where it cannot be written.
    """
    since = datetime.now().isoformat(" ", "seconds")
    mine = Holder(socket.gethostname(), os.getpid(), _began(os.getpid()), job, since, secrets.token_hex(8))
    try:
        run.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(run):
            _refuse_if_held(run, job)
            (run / _NAME).unlink(missing_ok=True)
            _create(run / _NAME, mine)
    except OSError as error:
        raise UsageError(f"{run}: cannot be written ({error.strerror}); use --run ANOTHER_FOLDER") from error
    return Lock(run, mine)


def holder(run: Path) -> Holder | None:
    """The living process that has the folder; None where there is none."""
    found = _read(run / _NAME)
    return found if found and _alive(run, found) else None


def _refuse_if_held(run: Path, job: str | None) -> None:
    found = _read(run / _NAME)
    if found is None or not _alive(run, found):
        return
    here = found.host == socket.gethostname()
    if job is not None and found.job == job and not here:
        return  # this job, before it was requeued
    wait = "wait for it to end" if here else f"wait for it to end (or, if it is gone, {DEAD_S:.0f} s)"
    heard = f"last heard {max(0.0, _age_s(run)):.0f} s ago"
    raise UsageError(f"{run}: in use by {found} since {found.since}, {heard}; {wait}, or use --run ANOTHER_FOLDER")


def _alive(run: Path, found: Holder) -> bool:
    if found.host == socket.gethostname():
        return _began(found.process) == found.began != ""
    return _age_s(run) < DEAD_S


def _age_s(run: Path) -> float:
    """Since the last heartbeat, by the file server's clock: hosts' own may differ."""
    probe = run / f".clock-{secrets.token_hex(4)}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # a reader without the right to write here
        now = time.time()
    try:
        return now - (run / _NAME).stat().st_mtime
    except OSError:
        return 0.0


def _create(path: Path, mine: Holder) -> None:
    """Whole, and only where there is none: a hard link fails if another process was first, on network disks too."""
    partial = path.with_name(f".{path.name}.{mine.token}")
    try:
        partial.write_text(json.dumps(dataclasses.asdict(mine)) + "\n", encoding="utf-8")
        _link_or_move(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _link_or_move(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        raise UsageError(f"{path.parent}: taken by another kws train this moment; use --run ANOTHER_FOLDER") from None
    except OSError:  # a file system without hard links
        partial.replace(path)


@contextlib.contextmanager
def _one_at_a_time(run: Path) -> Iterator[None]:
    """Looking who has the folder and taking it is one act, where the file system knows flock."""
    with (run / ".lock").open("a") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Holder | None:
    """None where there is no lock, or none that can be read."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return None


def _began(process: int) -> str:
    """When a process of this host began, in clock ticks; "" where there is none, or it is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
