"""How many cores to ask SLURM for beside each GPU: what the nodes have, from sinfo."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence

MOST_CORES = 8
"""Cores that one process with a GPU can use: reading and augmentation beside the process itself."""
_GPU = re.compile(r"gpu(?::[^:,()]+)?:(\d+)")
_TIMEOUT_S = 20.0


def cores_per_gpu(gpus: int, options: Sequence[str]) -> int | None:
    """Cores per GPU that a job with `gpus` per node gets on every node that has so many, at most MOST_CORES.

    `options`: those for sbatch. None where they request cores themselves, and where sinfo does not answer: then the job
    script's own number holds.
    """
    if any(option.startswith(("--cpus-per", "-c", "--exclusive")) for option in options):
        return None
    found = [cores // there for cores, there in _nodes(options) if there >= gpus]
    return max(1, min(*found, MOST_CORES)) if found else None


def _nodes(options: Sequence[str]) -> list[tuple[int, int]]:
    """Cores and GPUs of the nodes of the job's partition."""
    partitions = [option.partition("=")[2] for option in options if option.startswith("--partition=")]
    partition = partitions[-1] if partitions else os.environ.get("SBATCH_PARTITION", "")
    command = ["sinfo", "--noheader", "--exact", "--format=%c %G", *([f"--partition={partition}"] if partition else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if done.returncode == 0]
    return [(int(cores.rstrip("+")), gpus_of(gres)) for cores, gres in lines]


def gpus_of(gres: str) -> int:
    """Number of GPUs in a list of generic resources, such as `gpu:a100:4(S:0-1),nvme:1`."""
    return sum(int(number) for number in _GPU.findall(gres))
