"""What a run ran on, for run.json: versions, commit, hardware."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kws.distributed import slurm
from kws.distributed.ranks import Ranks
from kws.machine import cpu_name, usable_cores

_PACKAGES = ("kws", "torch", "torchaudio", "webdataset", "accelerate", "deepspeed", "librosa", "numpy", "soundfile")


def describe_environment(ranks: Ranks) -> dict[str, Any]:
    """Versions, commit, hardware, SLURM job, world size and threads, under the keys of run.json."""
    return {
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "host": socket.gethostname(),
            **_describe_gpu(ranks.device),
        },
        "job": slurm.job_id(),
        "world_size": ranks.world_size,
        "threads": ranks.threads,
    }


def _version(name: str) -> str | None:
    """Version of a package; None where its metadata is missing, as with a folder in PYTHONPATH, or the package is."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    """The GPU and what its results depend on; empty on a CPU. The GPUs of the other ranks are in the rank table."""
    if device.type != "cuda":
        return {}
    driver = Path("/sys/module/nvidia/version")
    found = torch.cuda.get_device_properties(device)
    return {
        "gpu": found.name,
        "gpu_gb": round(found.total_memory / 1e9, 1),
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": driver.read_text(encoding="utf-8").strip() if driver.is_file() else None,
    }


def environment_notes(recorded: dict[str, Any], present: dict[str, Any], deterministic: bool) -> list[str]:
    """Why a run may end with other bits than an uninterrupted one: GPUs of several models, and what differs between the
    run.json of a run that resumes and its `present` contents (`recorded`: {} for a new run). Nothing on GPUs without
    `deterministic`, where bits are not promised."""
    models = _gpu_models(present)
    if models and not deterministic:
        return []
    notes = []
    if len(models) > 1:
        notes.append(
            f"GPUs of {len(models)} models ({', '.join(models)}): equal bits need the same model for each rank"
        )
    if "hardware" in recorded and (changed := list(_changes(recorded, present))):
        notes.append(f"{'; '.join(changed)}: the run resumes, but may end with other bits than an uninterrupted one")
    return notes


def _changes(recorded: dict[str, Any], present: dict[str, Any]) -> Iterator[str]:
    was, now = recorded["hardware"], present["hardware"]
    for name, old, new in (
        ("processor", _gpu_models(recorded) or [was.get("cpu")], _gpu_models(present) or [now.get("cpu")]),
        ("torch", recorded.get("versions", {}).get("torch"), present["versions"]["torch"]),
        ("CUDA", was.get("cuda"), now.get("cuda")),
        ("cuDNN", was.get("cudnn"), now.get("cudnn")),
    ):
        if old != new:
            yield f"{name} {_listed(old)} before, {_listed(new)} now"


def _gpu_models(described: dict[str, Any]) -> list[str]:
    """The models of the ranks' GPUs, each once, from the device column of the rank table: "cuda:0 NVIDIA H100"."""
    return sorted({row["device"].partition(" ")[2] for row in described["ranks"]} - {""})


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _commit() -> str | None:
    """Commit of the running code; None if it is not in a git checkout, or git is missing."""
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None
    return None
