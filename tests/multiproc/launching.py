"""Starts real processes through real launchers, and kills them: what the tests with several processes share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from kws.run.checkpoint import Checkpoints
from tests.multiproc.forked import ForkedProcess, ForkedRanks

ROOT = Path(__file__).parent.parent.parent
SETTINGS = """
[model]
name = "tc_resnet8"
[frontend]
features = "mel32"
[data]
workers = 1
ledger = true
[train]
epochs = 3
global_batch = 32
micro_batch = 4
device = "cpu"
threads = 1
warmup_epochs = 0.5
log_steps = 1
"""
AnyProcess = subprocess.Popen[str] | ForkedProcess | ForkedRanks
Launcher = list[str] | int
ALONE = [sys.executable, "-m", "kws"]


def torchrun(ranks: int) -> list[str]:
    # "--": torchrun takes any --run for an abbreviation of its own --run-path.
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*words, "-m", "--", "kws"]


def accelerate(file: str = "cpu2.yaml") -> list[str]:
    config = ROOT / "launch" / file
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "-m", "kws"]


def overrides(*settings: str) -> list[str]:
    """The words of a command that set these settings."""
    return [word for setting in settings for word in ("--set", setting)]


def start(launcher: Launcher, config: Path, run: Path, *settings: str, env: dict[str, str] | None = None) -> AnyProcess:
    """Starts kws train: through the words of a launcher, or so many ranks without one."""
    if isinstance(launcher, int):
        return ForkedRanks(fork_ranks(launcher, "train", str(config), "--run", str(run), *overrides(*settings)))
    command = [*launcher, "train", str(config), "--run", str(run), *overrides(*settings)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | (env or {}),
    )  # fmt: skip


def finish(process: AnyProcess) -> tuple[int, str]:
    """Waits for the end. Returns exit code and output; leaves no process behind, whatever happens."""
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        kill(process)
    assert process.returncode is not None
    return process.returncode, output


def kill(process: AnyProcess) -> None:
    """SIGKILL to launcher and ranks at once; torchrun's ranks are in sessions of their own."""
    if isinstance(process, ForkedRanks):
        for rank in process.ranks:
            kill(rank)
        return
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        family = [*top.children(recursive=True), top]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)


def start_ranks(count: int, config: Path, run: Path, *settings: str) -> list[ForkedProcess]:
    """Starts each rank as a process of its own, without a launcher that would end the others: as srun does it."""
    return fork_ranks(count, "train", str(config), "--run", str(run), *overrides(*settings))


def fork_ranks(count: int, *arguments: str) -> list[ForkedProcess]:
    """Starts a kws command on `count` ranks."""
    environments = rank_environments(count) if count > 1 else [{}]
    return [ForkedProcess(arguments, environment) for environment in environments]


def rank_environments(count: int) -> list[dict[str, str]]:
    """The variables of torch.distributed for each of `count` ranks on this host."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def finish_ranks(ranks: Sequence[AnyProcess]) -> None:
    """Waits for ranks that must succeed."""
    outcomes = [finish(rank) for rank in ranks]
    assert [code for code, _ in outcomes] == [0] * len(ranks), outcomes


def kill_ranks(ranks: Sequence[AnyProcess]) -> None:
    for rank in ranks:
        kill(rank)
        rank.communicate()


def train_killed_and_resumed(config: Path, run: Path, *settings: str, saved: int) -> None:
    """Trains on two ranks, kills both when a checkpoint of step `saved` or a later one is there, and resumes on four
    ranks, to the end."""
    two = start_ranks(2, config, run, *settings)
    try:
        wait_until(lambda: saved_step(run) >= saved, two[0])
    finally:
        kill_ranks(two)
    finish_ranks(start_ranks(4, config, run, *settings))
    first, second = events(run, "start")
    assert (first["world_size"], second["world_size"]) == (2, 4)
    assert saved <= second["step"] < len(losses(run))


def wait_until(condition: Callable[[], bool], process: AnyProcess) -> None:
    """Waits for a condition while the process runs."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- what a run folder says -----------------------------------------------------------------------------------


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def status(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def steps_done(run: Path) -> int:
    """Number of step events so far, over all attempts."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"event": "step"') if path.exists() else 0


def saved_step(run: Path) -> int:
    """Step of the newest checkpoint; 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")), default=0)


def losses(run: Path) -> list[float]:
    """The loss of each step; of a step that was trained again, the later one."""
    found = {row["step"]: row["loss"] for row in events(run, "step")}
    return [found[step] for step in sorted(found)]


def final_state(run: Path) -> dict[str, object]:
    """All numbers of the last checkpoint: weights, averaged weights, optimizer, and the state of the schedule."""
    checkpoint = Checkpoints(run).find("last")
    optimizer = {} if checkpoint.optimizer_shards.is_dir() else checkpoint.optimizer()["optimizer"]["state"]
    moments = {f"{number}.{key}": value for number, part in optimizer.items() for key, value in part.items()}
    averaged = {f"ema.{name}": value for name, value in (checkpoint.ema() or {}).items()}
    names = ("step", "best_accuracy", "best_loss", "since_best", "plateau")
    return {**checkpoint.model(), **averaged, **moments, **{name: checkpoint.state[name] for name in names}}


def assert_same_bits(one: Path, other: Path) -> None:
    a, b = final_state(one), final_state(other)
    assert a.keys() == b.keys()
    unequal = [
        key
        for key, value in a.items()
        if not (torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key])  # type: ignore[arg-type]
    ]
    assert unequal == []


def assert_close(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Equal losses, weights, running statistics and averaged weights, but for the order of additions."""
    torch.testing.assert_close(losses(one), losses(other), rtol=0, atol=tolerance)
    a, b = ({name: value for name, value in final_state(run).items() if "." in name and not name[0].isdigit()}
            for run in (one, other))  # fmt: skip
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=tolerance, atol=tolerance, msg=name)
