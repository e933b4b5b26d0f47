from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kws.distributed.gpus import find_gpus, first_line, hidden_by
from tests.privileges import bound_by_permissions

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program nvidia-smi, first in PATH, that lists two GPUs."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA L4 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def test_a_gpu_that_torch_does_not_see_is_found_by_its_device_file(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    found = find_gpus(tmp_path)
    assert (found.usable, found.present, found.forbidden) == (0, 2, "")
    assert find_gpus(tmp_path / "empty").present == 0


@pytest.mark.slow  # a process of its own, because root may open every file
def test_a_device_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch(0o000)
    code = f"from pathlib import Path; from kws.distributed.gpus import *; print(find_gpus(Path({str(tmp_path)!r})))"
    done = subprocess.run(
        bound_by_permissions([sys.executable, "-c", code]), capture_output=True, text=True, check=True
    )
    assert f"present=1, forbidden='{tmp_path}/nvidia0'" in done.stdout


def test_gpus_without_device_files_are_listed_by_nvidia_smi(smi: Path) -> None:
    assert find_gpus().present == 2
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert find_gpus().present == 0


def test_gpus_are_hidden_on_purpose_only() -> None:
    assert hidden_by({"CUDA_VISIBLE_DEVICES": ""}) == "CUDA_VISIBLE_DEVICES="
    assert hidden_by({"CUDA_VISIBLE_DEVICES": "0,1", "ACCELERATE_USE_CPU": "false"}) == ""
    assert hidden_by({}) == ""


def test_an_error_of_torch_is_shortened_to_what_happened() -> None:
    error = RuntimeError(
        "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be asynchronously "
        "reported at some other API call\nCompile with `TORCH_USE_CUDA_DSA`"
    )
    assert first_line(error) == "CUDA error: all CUDA-capable devices are busy or unavailable"
    assert first_line(RuntimeError("too old (found version 11040). Please update")) == "too old (found version 11040)"
