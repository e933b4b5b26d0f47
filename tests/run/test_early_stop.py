"""Stop requests before the first step: with real signals, at a process that has only begun and at real trainings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kws.data.index import Index
from kws.run import folder as run_folder
from kws.run import lock
from kws.run.early_stop import EarlyStop
from tests.conftest import tiny_settings

_BEGUN = """
import sys, time
from pathlib import Path
from kws.run import early_stop, lock
run = Path(sys.argv[1])
start = early_stop.begin_start(run)
if "lock" in sys.argv:
    lock.acquire(run)
print("begun", flush=True)
time.sleep(600)
"""


def stopped(run: Path, number: signal.Signals, *words: str, before: str = "") -> tuple[int, str]:
    """Exit code and stderr of a starting process that gets the signal. `before`: shell words in front of it."""
    command = [*before.split(), sys.executable, "-c", _BEGUN, str(run), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() not in ("begun\n", ""):
            pass
        process.send_signal(number)
        if before:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1.0)
            process.terminate()
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_the_first_step_is_an_orderly_stop(number: signal.Signals, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, errors = stopped(run, number, "lock")
    assert code == 75
    assert errors.count("\n") == 1
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"], status["signal"]) == ("preempted", 75, number)
    assert lock.find_holder(run) is None
    assert not (run / "lock.json").exists()


def test_nohup_is_respected(tmp_path: Path) -> None:
    code, _ = stopped(tmp_path / "run", signal.SIGHUP, before="nohup")
    assert code == 75  # by the SIGTERM that follows
    assert json.loads((tmp_path / "run" / "status.json").read_text())["signal"] == signal.SIGTERM


def test_what_another_process_or_a_finished_run_says_is_kept(tmp_path: Path) -> None:
    used, done = tmp_path / "used", tmp_path / "done"
    held = lock.acquire(used)
    for run, state in ((used, "running"), (done, "finished")):
        run.mkdir(exist_ok=True)
        run_folder.write_status(run, state, 7)
        assert stopped(run, signal.SIGTERM)[0] == 75
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["step"]) == (state, 7)
    held.release()


def test_a_stop_file_is_stale_only_if_it_was_there_before(tmp_path: Path) -> None:
    new = EarlyStop(tmp_path)
    (tmp_path / "stop").touch()
    assert not new.is_stale()
    old = EarlyStop(tmp_path)
    assert old.is_stale()
    os.utime(tmp_path / "stop", (1, 1))
    assert not old.is_stale()


@pytest.mark.slow
@pytest.mark.multiproc
@pytest.mark.parametrize("delay_s", [0.0, 0.5, 2.0, 4.0, 8.0])
def test_a_training_that_starts_is_stopped_in_order_at_any_moment(delay_s: float, tones: Index, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_settings(tones.root, epochs=500, global_batch=32))
    run, words = tmp_path / "run", [sys.executable, "-m", "kws", "train", str(tmp_path / "tiny.toml")]
    process = subprocess.Popen([*words, "--run", str(run)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not catches_sigterm(process.pid):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(delay_s)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "Traceback" not in output
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("preempted", 75)
    saved = (run / "checkpoints" / "last").exists()
    assert saved == (status["step"] > 0)
    assert saved == ("nothing to save" not in output)


def catches_sigterm(process: int) -> bool:
    """Whether the process has a handler for SIGTERM."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False
