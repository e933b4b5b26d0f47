"""Ranks that cannot start: each failure is one line, with exit code 2, and no rank waits for another."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.multiproc.forked import ForkedProcess
from tests.multiproc.launching import finish, rank_environments

pytestmark = pytest.mark.multiproc
HOST = socket.gethostname()


def failures(config: Path, run: Path, environments: list[dict[str, str]], *settings: str) -> list[str]:
    """What each rank prints; all must end with exit code 2, and without a traceback."""
    words = ["train", str(config), "--run", str(run), *(word for each in settings for word in ("--set", each))]
    ranks = [ForkedProcess(words, environment) for environment in environments]
    outcomes = [finish(rank) for rank in ranks]
    assert [code for code, _ in outcomes] == [2] * len(ranks), outcomes
    assert not run.exists()
    assert "Traceback" not in "".join(output for _, output in outcomes)
    return [output for _, output in outcomes]


def test_a_rank_whose_gpu_is_unusable_ends_all_ranks_and_is_named(config: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-1)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    environments = rank_environments(2)
    environments[1]["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    shown, nothing = failures(config, tmp_path / "run", environments, "train.device=auto")
    assert f"rank 1 on {HOST}" in shown
    assert "--set train.device=cpu" in shown
    assert shown.count("\n") == 1
    assert nothing == ""


def test_a_launch_file_for_the_cpu_does_not_override_cuda(config: Path, tmp_path: Path) -> None:
    (shown,) = failures(config, tmp_path / "run", [{"ACCELERATE_USE_CPU": "true"}], "train.device=cuda")
    assert "train.device: cuda" in shown
    assert "ACCELERATE_USE_CPU" in shown


@pytest.mark.slow
def test_a_port_in_use_and_a_missing_network_are_one_line(config: Path, tmp_path: Path) -> None:
    (alone,) = rank_environments(1)
    with socket.create_server(("", int(alone["MASTER_PORT"]))):
        (shown,) = failures(config, tmp_path / "run", [alone])
    assert f"MASTER_PORT: {alone['MASTER_PORT']}" in shown
    (shown,) = failures(config, tmp_path / "run", [alone | {"GLOO_SOCKET_IFNAME": "nonet7"}])
    assert "nonet7" in shown
    assert "GLOO_SOCKET_IFNAME=" in shown
