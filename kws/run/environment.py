"""What a run ran on: versions, commit, hardware, for run.json."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kws.distributed import slurm
from kws.distributed.ranks import Ranks
from kws.machine import cpu_name, usable_cores

_PACKAGES = ("kws", "torch", "torchaudio", "webdataset", "accelerate", "deepspeed", "librosa", "numpy", "soundfile")


def describe_environment(ranks: Ranks) -> dict[str, Any]:
    """Versions, commit, hardware, SLURM job, world size and threads, as run.json holds them."""
    return {
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hardware": {"cpu": cpu_name(), "cores": usable_cores(), "host": socket.gethostname()},
        "job": slurm.job_id(),
        "world_size": ranks.world_size,
        "threads": ranks.threads,
    }


def _commit() -> str | None:
    """Commit of the running code; None where it is no git checkout, or git is missing."""
    with contextlib.suppress(OSError):
        shown = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return shown.stdout.strip() or None
    return None
