"""The GPUs that this process can see: through torch, and, where torch sees none, through the system.

torch.cuda, /dev/nvidia*, nvidia-smi  ->  find_gpus()  ->  GpuState
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

_SMI_TIMEOUT_S = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuState:
    """The GPUs of one process."""

    usable: int = 0
    """GPUs that torch sees."""
    present: int = 0
    """GPUs that the system shows to this process; only counted where torch sees none."""
    forbidden: str = ""
    """A device file that this user may not open; "": none."""
    cuda: str = ""
    """CUDA version for which torch was built; "": torch without CUDA."""
    reason: str = ""
    """Why torch sees no GPU, in its own words."""


def find_gpus(dev: Path = Path("/dev")) -> GpuState:
    """The GPUs of this process. Makes no CUDA context. `dev`: the folder of the device files."""
    cuda = torch.version.cuda or torch.version.hip or ""
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable:
        return GpuState(usable=usable, cuda=cuda)
    present, forbidden = _device_files(dev)
    if not present and dev == Path("/dev"):
        present = _listed_by_nvidia_smi()
    return GpuState(present=present, forbidden=forbidden, cuda=cuda, reason=_reason_of_torch() if cuda else "")


def hidden_by(environ: Mapping[str, str]) -> str:
    """The variable that hides all GPUs on purpose, such as `CUDA_VISIBLE_DEVICES=-1`; "" if none does."""
    if environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return f"ACCELERATE_USE_CPU={environ['ACCELERATE_USE_CPU']}"
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    # Slurm before 21.08 writes NoDevFiles for a job without GPUs.
    if visible is not None and (not visible.strip() or visible.startswith(("-1", "NoDevFiles"))):
        return f"CUDA_VISIBLE_DEVICES={visible}"
    return ""


def _device_files(dev: Path) -> tuple[int, str]:
    """How many GPUs have a device file that is not reserved for others, and one that this user may not open."""
    present, forbidden = 0, ""
    for path in sorted(dev.glob("nvidia*")):
        if not re.fullmatch(r"nvidia\d+", path.name):
            continue
        try:
            os.close(os.open(path, os.O_RDWR))
        except OSError as error:
            # SLURM and containers hide a GPU from a job with a device cgroup: EPERM, whatever the file's mode.
            if error.errno == errno.EPERM:
                continue
            if error.errno == errno.EACCES:
                forbidden = forbidden or str(path)
        present += 1
    return present, forbidden


def _listed_by_nvidia_smi() -> int:
    """Number of GPUs that nvidia-smi lists; 0 without it. It finds the GPUs of WSL, which have no device files."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def _reason_of_torch() -> str:
    """Why CUDA cannot be initialised: the first sentences of torch's error."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return ""


def first_line(error: BaseException) -> str:
    """The first line of an error of torch, without its advice on debugging."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.split(r"\. (Please|Alternatively)|; (please|check)", lines[0])[0][:200] if lines else type(error).__name__
