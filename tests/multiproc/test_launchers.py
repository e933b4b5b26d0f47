"""A stop under each launcher, with a thread that reads ahead: the run is saved, says so, and no process is left."""

from __future__ import annotations

import functools
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kws.evaluation.ledger_audit import verify_run
from tests.multiproc.launching import ALONE, accelerate, kill, start, status, steps_done, torchrun, wait_until

pytestmark = pytest.mark.multiproc
heavy = functools.partial(pytest.param, marks=pytest.mark.heavy)
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
LAUNCHERS = {
    "kws": (ALONE, 1),
    "accelerate, one": (accelerate("cpu1.yaml"), 1),
    "accelerate, two": (accelerate(), 2),
    "torchrun": (torchrun(2), 2),
}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        slow("kws", signal.SIGINT),
        slow("accelerate, one", signal.SIGTERM),  # accelerate does not end its process
        heavy("accelerate, one", signal.SIGKILL),
        heavy("accelerate, two", signal.SIGTERM),
        heavy("accelerate, two", signal.SIGKILL),
        slow("torchrun", signal.SIGUSR2),  # which ends torchrun at once
        heavy("torchrun", signal.SIGTERM),
        heavy("torchrun", signal.SIGKILL),
    ],
)
def test_a_signal_to_the_launcher_saves_and_leaves_no_process(
    name: str, sent: signal.Signals, config: Path, tmp_path: Path
) -> None:
    launcher, ranks = LAUNCHERS[name]
    run = tmp_path / "run"
    process = start(launcher, config, run, "train.epochs=2000", "data.workers=1")
    try:
        wait_until(lambda: steps_done(run) >= 4, process)
        top = psutil.Process(process.pid)
        family = [top, *top.children(recursive=True)]
        assert len([member for member in family if "train" in member.cmdline()]) >= ranks
        process.send_signal(sent)
        code = process.wait(timeout=90)
        _, left = psutil.wait_procs(family, timeout=90)
        assert left == []
    finally:
        kill(process)
        output, _ = process.communicate()
    found = status(run)
    assert (found["state"], found["code"]) == ("preempted", 75), output
    assert found["step"] > 0
    assert verify_run(run).faults == []
    if launcher is ALONE:
        assert code == 75


@pytest.mark.slow
def test_a_rank_ends_when_its_launcher_is_killed_while_it_starts(config: Path, tmp_path: Path) -> None:
    process = start(accelerate("cpu1.yaml"), config, tmp_path / "run", "train.epochs=2000", "data.workers=0")
    family = [top := psutil.Process(process.pid)]

    def importing() -> bool:
        # Between fork and exec a rank is still a copy of its launcher.
        ranks = [member for member in top.children() if member.cmdline() != top.cmdline()]
        return any("libtorch" in mapped.path for rank in ranks for mapped in rank.memory_maps())

    try:
        wait_until(importing, process)
        family += top.children(recursive=True)
        process.kill()
        assert psutil.wait_procs(family, timeout=30)[1] == []
    finally:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.communicate()
