"""Runs on a GPU, as users start them: trained, killed, resumed, evaluated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kws.evaluation.ledger_audit import verify_run
from tests.conftest import require
from tests.multiproc.launching import (
    ALONE,
    Launcher,
    accelerate,
    assert_same_bits,
    events,
    finish,
    kill,
    saved_step,
    start,
    torchrun,
    wait_until,
)

pytestmark = [pytest.mark.gpu, pytest.mark.multiproc]
ON_GPU = ("train.device=cuda", "train.deterministic=true", "train.threads=0")


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no GPU")


@pytest.mark.parametrize("reduction", ["fast", "exact"])
def test_killed_and_resumed_ends_with_the_same_bits(
    reduction: str, train: Callable[..., Path], config: Path, tmp_path: Path
) -> None:
    settings = (*ON_GPU, f"train.reduction={reduction}", "train.ema=0.9", "train.save_minutes=0")
    process = start(ALONE, config, tmp_path / "broken", *settings)
    wait_until(lambda: saved_step(tmp_path / "broken") >= 3, process)
    kill(process)
    process.communicate()
    assert finish(start(ALONE, config, tmp_path / "broken", *settings))[0] == 0
    assert_same_bits(train(ALONE, "whole", *settings), tmp_path / "broken")
    assert verify_run(tmp_path / "broken").faults == []


def test_launchers_and_nccl_change_no_bit(train: Callable[..., Path]) -> None:
    launchers: dict[str, Launcher] = {"alone": ALONE, "gpu1": accelerate("gpu1.yaml"), "torchrun": torchrun(1)}
    runs = [train(launcher, name, *ON_GPU) for name, launcher in launchers.items()]
    for run in runs[1:]:
        assert_same_bits(runs[0], run)
    assert all(row["gpu_gb"] > 0 for row in events(runs[0], "step"))


def test_two_processes_on_one_gpu_are_refused_in_a_line(config: Path, tmp_path: Path) -> None:
    require("gpu", torch.cuda.device_count() == 1, "there are several GPUs")
    code, output = finish(start(accelerate("gpus.yaml"), config, tmp_path / "run", "train.device=cuda"))
    assert code == 1, "that of the launcher"
    (line,) = [line for line in output.splitlines() if line.startswith("kws:")]
    assert "--num_processes" in line
