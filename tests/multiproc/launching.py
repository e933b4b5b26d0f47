"""Real launchers and real kills: what the tests with several processes share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

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
ALONE = [sys.executable, "-m", "kws"]


def torchrun(ranks: int) -> list[str]:
    # "--": torchrun takes any --run for an abbreviation of its own --run-path.
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [*words, "-m", "--", "kws"]


def accelerate(file: str = "cpu2.yaml") -> list[str]:
    config = ROOT / "launch" / file
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), "-m", "kws"]


def start(
    launcher: list[str], config: Path, run: Path, *settings: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [*launcher, "train", str(config), "--run", str(run), *overrides]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | (env or {}),
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; no process of it is left behind, whatever happens."""
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        kill(process)
    return process.returncode, output


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to launcher, ranks and loader workers, all at once; torchrun's ranks are in sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        family = [*top.children(recursive=True), top]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)


def start_ranks(count: int, config: Path, run: Path, *settings: str) -> list[subprocess.Popen[str]]:
    """Each rank a process of its own, with nobody above them that would end the others: as srun does it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return [
        start(ALONE, config, run, *settings, env={
            "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        })
        for rank in range(count)
    ]  # fmt: skip


def steps_done(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count('"event": "step"') if path.exists() else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """While the process is there."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
