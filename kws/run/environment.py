"""What a run ran on, for run.json: versions, commit, hardware."""

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
    """Versions, commit, hardware, SLURM job, world size and threads, under the keys of run.json."""
    return {
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": _commit(),
        "hardware": {"cpu": cpu_name(), "cores": usable_cores(), "host": socket.gethostname()},
        "job": slurm.job_id(),
        "world_size": ranks.world_size,
        "threads": ranks.threads,
    }


def _commit() -> str | None:
    """Commit of the running code; None if it is not in a git checkout, or git is missing."""
    with contextlib.suppress(OSError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() or None
    return None
