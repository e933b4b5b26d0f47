"""Answers as four ranks on two healthy nodes would give them, for tests that make one thing wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from kws.config import Config
from kws.doctor.answers import Answers

MACHINE: dict[str, Any] = {
    "python": "3.11.7", "kws": "0.1.0 (code 12345678)", "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "cores": [0, 1, 2, 3], "usable_cores": 4, "omp_threads": "", "open_files": [65_536, 65_536],
    "locked_memory": [None, None], "shared_memory": {"total": 1 << 34, "free": 1 << 34}, "infiniband": [],
    "nvidia": {"driver": "", "cuda": "", "gpus": [], "devices": 0, "visible": None}, "run": "/runs/a",
    "torch": {
        "torch": "2.13.0", "cuda": None, "hip": None, "nccl": "", "threads": 2, "devices": [], "device": "cpu",
        "fault": "", "torchaudio": "2.11.0", "torchaudio_error": "", "extension": True,
    },
}  # fmt: skip
GPU = {"name": "H100", "capability": "9.0", "memory": 80 * 10**9}
STEP: dict[str, Any] = {
    "network": "tc_resnet8", "gradient_bytes": 400_000, "all_reduce_s": 0.001, "slots": 8, "micro_batch": 64,
    "slot_s": [0.1] * 4, "update_s": [0.002] * 4,
}  # fmt: skip


def healthy(**training: Any) -> Answers:
    """Two ranks on each of node1 and node2. `training`: settings of the config's train section."""
    ranks = range(4)
    machine = {rank: copy.deepcopy(MACHINE) for rank in ranks}
    hosts = {rank: f"node{rank // 2 + 1}" for rank in ranks}
    for rank in ranks:
        machine[rank]["addresses"] = {hosts[rank]: [f"10.0.0.{rank // 2 + 1}"], "node1": ["10.0.0.1"]}
    group = {"seconds": 1.0, "backend": "gloo", "device": "cpu", "threads": 2, "network": ""}
    return Answers(
        world_size=4, config=Config(train=Config().train.__class__(**training)), run=Path("/runs/a"), hosts=hosts,
        clocks={"node2": (0.001, 0.001)}, machine=machine, marker={"folder": "/runs"},
        folders={rank: {"look": {"sees": True, "type": "nfs4"}} for rank in ranks}
        | {0: {"look": {"sees": True, "type": "nfs4"}, "write": write()}},
        collected={"seen": [0, 1, 2, 3]},
        shards={rank: {"read": read(), "cache": {}} for rank in ranks},
        training={
            rank: {"group": dict(group), "all_reduce": all_reduce(rank), "step": copy.deepcopy(STEP)} for rank in ranks
        },
    )  # fmt: skip


def alone(**training: Any) -> Answers:
    """The first rank of those, as the only process."""
    found = healthy(**training)
    for name in ("hosts", "machine", "folders", "shards", "training"):
        setattr(found, name, {0: getattr(found, name)[0]})
    found.world_size, found.clocks, found.collected = 1, {}, {}
    found.training[0]["all_reduce"] = {"all": None, "node": None, "nodes": None}
    found.training[0]["step"] |= {"slot_s": [0.1], "update_s": [0.002], "all_reduce_s": None}
    return found


def write() -> dict[str, Any]:
    """A healthy disk."""
    return {"free": 10**12, "free_files": 10**6, "folder": "/runs", "type": "nfs4", "bytes_s": 1e9}


def read() -> dict[str, Any]:
    """Shards read at 500 MB/s by each rank."""
    return {"corpus_id": "c" * 32, "kind": "folder", "bytes": 10**9, "seconds": 2.0, "bytes_of_clip": 33_000,
            "folder": "/shards"}  # fmt: skip


def all_reduce(rank: int) -> dict[str, Any]:
    """1 GB/s inside the nodes, 0.5 GB/s between them."""
    node = {"ranks": [0, 1] if rank < 2 else [2, 3], "latency_s": 1e-4, "bytes": 10**7, "seconds": 0.0101}
    nodes = {"ranks": [0, 2], "latency_s": 2e-4, "bytes": 10**7, "seconds": 0.0202} if rank in (0, 2) else None
    return {"all": node | {"ranks": [0, 1, 2, 3]}, "node": node, "nodes": nodes}
