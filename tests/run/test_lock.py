from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kws.errors import UsageError
from kws.run import lock

HERE = socket.gethostname()


def write_lock(run: Path, age_s: float = 0.0, **changes: object) -> None:
    """A lock file of another process, with a heartbeat `age_s` seconds old."""
    run.mkdir(exist_ok=True)
    holder = {"host": "elsewhere", "process": 1, "began": "1", "job": None, "since": "2026-01-01", "token": "t"}
    (run / "lock.json").write_text(json.dumps(holder | changes))
    then = time.time() - age_s
    os.utime(run / "lock.json", (then, then))


def test_a_folder_is_locked_until_its_release(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    held = lock.acquire(run)
    with pytest.raises(UsageError, match=rf"process {os.getpid()} on {HERE} .*--run ANOTHER_FOLDER"):
        lock.acquire(run)
    assert lock.find_holder(run) is not None
    held.release()
    assert lock.find_holder(run) is None
    lock.acquire(run).release()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    code = (
        f"from kws.run import lock; import sys; lock.acquire(__import__('pathlib').Path({str(tmp_path)!r})); print(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code + "; sys.stdin.read()"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UsageError, match=f"process {process.pid}"):
            lock.acquire(tmp_path)
        process.kill()
        process.wait()
        lock.acquire(tmp_path).release()


def test_a_reused_process_id_does_not_hold_the_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, host=HERE, process=os.getpid(), began="1")
    lock.acquire(tmp_path).release()


def test_the_lock_of_another_host_is_free_when_its_heartbeat_is_old(tmp_path: Path) -> None:
    write_lock(tmp_path, age_s=lock.DEAD_S - 20)
    with pytest.raises(UsageError, match=r"process 1 on elsewhere .*40 s ago"):
        lock.acquire(tmp_path)
    write_lock(tmp_path, age_s=lock.DEAD_S + 1)
    lock.acquire(tmp_path).release()


def test_a_requeued_job_takes_over_its_own_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, job="7")
    with pytest.raises(UsageError, match=r"process 1 on elsewhere \(job 7\)"):
        lock.acquire(tmp_path, "8")
    lock.acquire(tmp_path, "7").release()


def test_the_heartbeat_is_updated_and_notices_another_holder(tmp_path: Path) -> None:
    lost: list[str] = []
    seen, lost_event = threading.Event(), threading.Event()
    held = lock.acquire(tmp_path)
    held.start_heartbeat(lambda why: (lost.append(why), lost_event.set()), seen.set, interval_s=0.05)
    os.utime(tmp_path / "lock.json", (0, 0))
    deadline = time.monotonic() + 30
    while (tmp_path / "lock.json").stat().st_mtime == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert seen.wait(30)
    write_lock(tmp_path)
    assert lost_event.wait(30)
    assert len(lost) == 1
    assert "process 1 on elsewhere" in lost[0]
    held.release()
    assert (tmp_path / "lock.json").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"host": 1}'])
def test_a_damaged_lock_is_free(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock.json").write_text(text)
    lock.acquire(tmp_path).release()


def test_one_of_many_processes_gets_the_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, age_s=100)
    code = (
        "import sys, time, pathlib; from kws.run import lock\nfrom kws.errors import UsageError\n"
        f"try: lock.acquire(pathlib.Path({str(tmp_path)!r})); print('mine', flush=True)\n"
        "except UsageError: print('no', flush=True)\nsys.stdin.read()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) for _ in range(4)]
    answers = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate("")
    assert sorted(answers) == ["mine", "no", "no", "no"]


def test_a_folder_that_cannot_be_created_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=str(tmp_path / "file" / "run")):
        lock.acquire(tmp_path / "file" / "run")


def test_a_heartbeat_from_a_clock_that_runs_ahead_grows_old_too(tmp_path: Path) -> None:
    write_lock(tmp_path, age_s=-7200.0)
    with pytest.raises(UsageError, match=r"process 1 on elsewhere .* 0 s ago"):
        lock.acquire(tmp_path)
    assert (tmp_path / "lock.json").stat().st_mtime <= time.time() + 1.0
    write_lock(tmp_path, age_s=lock.DEAD_S + 1)  # a minute later
    lock.acquire(tmp_path).release()
