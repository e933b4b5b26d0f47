"""Which device this rank uses, or why it cannot have one. The only place that chooses a device.

train.device, environment, GpuState  ->  choose_device()  ->  "cpu", or the number of a GPU; UsageError
the chosen GPU                       ->  probe()          ->  its fault, or ""

    GPUs visible    local rank 0, 1, 2 ... uses
    one             GPU 0: SLURM shows each task its own one (--gpus-per-task, --gpu-bind=single)
    several         GPU of its local rank, counted round
Two ranks on one GPU are noticed when the ranks compare what they chose (kws/distributed/rank_devices.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from kws.distributed.gpus import GpuState, find_gpus, first_line, hidden_by
from kws.errors import UsageError

ON_CPU = "--set train.device=cpu (kws evaluate: CUDA_VISIBLE_DEVICES= before the command)"


def choose_device(setting: str, environ: Mapping[str, str] = os.environ, gpus: GpuState | None = None) -> torch.device:
    """The device of this rank. `setting`: train.device; `gpus`: find_gpus() by default.

    "auto" is the CPU only where no GPU is visible, or where the environment hides them on purpose. Raises UsageError
    where the setting is "cuda" and there is no GPU, and where a GPU is there but cannot be used.
    """
    if setting == "cpu":
        return torch.device("cpu")
    hidden = hidden_by(environ)
    if setting == "auto" and hidden:
        return torch.device("cpu")
    gpus = gpus or find_gpus()
    if setting == "cuda" and hidden:
        raise UsageError(f"train.device: cuda, but {hidden} hides the GPUs; remove it, or use {ON_CPU}")
    if gpus.usable:
        return torch.device("cuda", gpu_number(int(environ.get("LOCAL_RANK", "0")), gpus.usable))
    if gpus.present:
        raise UsageError(f"train.device: {setting}, and {why_unusable(gpus, environ)}, or use {ON_CPU}")
    if setting == "cuda":
        raise UsageError(f"train.device: cuda, but {why_none(gpus)}; use {ON_CPU}")
    return torch.device("cpu")


def gpu_number(local_rank: int, visible: int) -> int:
    """Number of the GPU that a rank uses among the visible ones."""
    return local_rank % visible


def why_unusable(gpus: GpuState, environ: Mapping[str, str] = os.environ) -> str:
    """Why torch cannot use a GPU that is there, and what to do."""
    there = "1 GPU is" if gpus.present == 1 else f"{gpus.present} GPUs are"
    if not gpus.cuda:
        return (
            f"{there} there, but torch {torch.__version__} was built without CUDA: install torch for CUDA (see "
            "https://pytorch.org/get-started)"
        )
    if gpus.forbidden:
        return (
            f"{there} there, but this user may not open {gpus.forbidden}: join the group of that file (ls -l "
            f"{gpus.forbidden}; sudo usermod -aG GROUP $USER)"
        )
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible and "No CUDA GPUs" in gpus.reason:
        return f"{there} there, but none of them is CUDA_VISIBLE_DEVICES={visible}: correct or unset it"
    fix = "nvidia-smi shows the state of driver and GPU; after an update of the driver, restart the machine"
    if "too old" in gpus.reason:
        fix = f"update the driver, or install torch for an older CUDA than {gpus.cuda}"
    return f"{there} there, but torch cannot use it ({gpus.reason or 'no reason given'}): {fix}"


def why_none(gpus: GpuState) -> str:
    """Why there is no GPU to use."""
    return "torch sees no GPU here" if gpus.cuda else f"torch {torch.__version__} was built without CUDA"


def probe(device: torch.device) -> str:
    """What is wrong with the chosen GPU, found by computing on it; "" if it works. Makes the CUDA context."""
    if device.type != "cuda":
        return ""
    try:
        torch.cuda.set_device(device)
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        name = f"GPU {device.index} of {torch.cuda.device_count()}"
        return (
            f"{name} does not work ({first_line(error)}): look at nvidia-smi, use the others with "
            f"CUDA_VISIBLE_DEVICES=..., or use {ON_CPU}"
        )
    return ""
