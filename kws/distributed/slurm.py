"""SLURM's environment variables: the ranks of an srun step, the job's id, the first node.

srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS, ...  ->  RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_GPUS_OF_NODE = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")


def job_id() -> str | None:
    """Id of the SLURM job that this process is part of; None outside SLURM."""
    return os.environ.get("SLURM_JOB_ID")


def adopt_srun_step(environ: dict[str, str] | None = None) -> bool:
    """Sets RANK, WORLD_SIZE and the other variables of torch.distributed where only srun set the ranks.

    Returns whether it did. `environ`: the environment to read and change; os.environ by default.
    """
    env: Any = os.environ if environ is None else environ
    if "RANK" in env or not _in_srun_step(env):
        return False
    env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
    env["LOCAL_RANK"] = env["SLURM_LOCALID"]
    env["LOCAL_WORLD_SIZE"] = _tasks_on_this_node(env)
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = step_hosts(env)[0]
    # A port derived from the job id, so that two jobs on one node differ, and below Linux's ephemeral ports (32768).
    env.setdefault("MASTER_PORT", str(20_000 + int(env["SLURM_JOB_ID"]) % 12_000))
    return True


def cores_per_task(environ: Mapping[str, str] = os.environ) -> int:
    """Cores that SLURM gave each task; 0 where the job did not request a number."""
    return int(environ.get("SLURM_CPUS_PER_TASK") or 0)


def gives_gpus(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether SLURM gave GPUs to this job on this node, however they were requested."""
    return any(environ.get(name, "0") not in ("", "0") for name in _GPUS_OF_NODE)


def _in_srun_step(env: Mapping[str, str]) -> bool:
    # A batch shell has SLURM_PROCID=0 too; only a step has SLURM_STEP_NUM_TASKS.
    return "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env


def _tasks_on_this_node(env: Mapping[str, str]) -> str:
    """This node's entry of SLURM_STEP_TASKS_PER_NODE, such as `2(x3),1`."""
    counts: list[str] = []
    for part in env["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.partition("(x")
        counts += [count] * int(times.rstrip(")") or 1)
    return counts[int(env["SLURM_NODEID"])]


def step_hosts(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The hosts of this srun step, in order; [] outside one. Without scontrol, which a container lacks."""
    parts = re.findall(r"(?:\[[^\]]*\]|[^,\[])+", environ.get("SLURM_STEP_NODELIST", ""))
    return [host for part in parts for host in _expand(part)]


def _expand(name: str) -> list[str]:
    """gpu[01-03,07] -> gpu01, gpu02, gpu03, gpu07."""
    before, opened, rest = name.partition("[")
    if not opened:
        return [name]
    inside, _, after = rest.partition("]")
    numbers: list[str] = []
    for entry in inside.split(","):
        low, _, high = entry.partition("-")
        numbers += [str(number).zfill(len(low)) for number in range(int(low), int(high or low) + 1)]
    return [f"{before}{number}{end}" for number in numbers for end in _expand(after)]
