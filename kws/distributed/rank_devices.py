"""The description of each rank's device, compared before the first collective operation: what must be equal or differ.

Each rank: RankDevice -> all of them, through the store -> find_fault() -> the same UsageError on every rank, or ""

A GPU that is seen by one rank only, two ranks on one GPU, or a rank on the CPU among ranks on GPUs would otherwise end
in a wait without end, because gloo and NCCL cannot communicate.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kws.distributed.device import ON_CPU
from kws.machine import cores_of_process

SHARED_GPU_NCCL = (2, 30)
"""The first NCCL that several ranks may use on one GPU, with NCCL_MULTI_RANK_GPU_ENABLE=1 (NCCL user guide)."""
_SHARED_GPU = "NCCL_MULTI_RANK_GPU_ENABLE"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankDevice:
    """The device and the machine of one rank."""

    rank: int = 0
    host: str = ""
    machine: str = ""
    """Distinguishes machines of the same host name."""
    device: str = "cpu"
    fault: str = ""
    """Why this rank cannot use its device; "": it can."""
    gpu: str = ""
    """PCI address of the GPU."""
    visible: tuple[str, ...] = ()
    """PCI addresses of all GPUs that this rank sees."""
    alone_on: str = ""
    """The GPU, or the slice of one (MIG), that no other rank of this machine may use; "": they may."""
    why_alone: str = ""
    cores: tuple[int, ...] = ()
    """The cores that this rank may run on."""
    most_threads: int = 0
    """The most torch threads for this rank; 0: as many as cores."""

    def to_json(self) -> str:
        """For the store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RankDevice:
        """The description that another rank put into the store."""
        fields: dict[str, Any] = json.loads(text)
        return cls(**fields | {"visible": tuple(fields["visible"]), "cores": tuple(fields["cores"])})


def describe(device: torch.device, fault: str = "", most_threads: int = 0) -> RankDevice:
    """The description of this rank: its machine, and `device` unless that has a fault. `most_threads`: see there."""
    own = RankDevice(
        rank=int(os.environ.get("RANK", "0")), host=socket.gethostname(), machine=_machine(), device=str(device),
        fault=fault, cores=cores_of_process(), most_threads=most_threads,
    )  # fmt: skip
    if device.type != "cuda" or fault:
        return own
    properties: Any = torch.cuda.get_device_properties(device)
    nccl: tuple[int, ...] = torch.cuda.nccl.version()[:2]  # type: ignore[no-untyped-call]
    why_alone, address = why_not_shared(nccl), _pci_address(properties)
    # Older NCCLs compare PCI addresses, which the slices of a card share; newer ones compare unique ids.
    identity = address if nccl < SHARED_GPU_NCCL else str(properties.uuid)
    return dataclasses.replace(
        own, gpu=address, alone_on=identity if why_alone else "", why_alone=why_alone,
        visible=tuple(_pci_address(torch.cuda.get_device_properties(n)) for n in range(torch.cuda.device_count())),
    )  # fmt: skip


def _machine() -> str:
    """Host name and boot id, because containers on two machines may have the same host name."""
    try:
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return socket.gethostname()


def _pci_address(properties: Any) -> str:
    if not hasattr(properties, "pci_bus_id"):  # not in all versions of torch
        return str(properties.uuid)
    return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}"


def why_not_shared(nccl: Sequence[int], environ: Mapping[str, str] = os.environ) -> str:
    """Why two ranks may not use one GPU, and what to do; "" if they may."""
    version = ".".join(map(str, nccl))
    if tuple(nccl) < SHARED_GPU_NCCL:
        return f"NCCL {version} needs a GPU of its own for each process"
    if environ.get(_SHARED_GPU) != "1":
        return f"NCCL needs a GPU of its own for each process, unless {_SHARED_GPU}=1 is set"
    return ""


def find_fault(ranks: Sequence[RankDevice], all_gpus: bool = False) -> str:
    """What is wrong with the devices of the ranks; "" if nothing is. The same on every rank.

    `all_gpus`: every GPU that the ranks see must be used, because SLURM gave them to this job alone.
    """
    return _own_faults(ranks) or _different_types(ranks) or _shared(ranks) or (_idle(ranks) if all_gpus else "")


def _own_faults(ranks: Sequence[RankDevice]) -> str:
    faulty = [each for each in ranks if each.fault]
    if not faulty:
        return ""
    several = len(ranks) > 1
    first = f"{_name(faulty[0])}: {faulty[0].fault}" if several else faulty[0].fault
    more = [each for each in faulty[1:] if each.fault != faulty[0].fault or each.host != faulty[0].host]
    return first + (f" (also {_names(more)})" if more else "")


def _different_types(ranks: Sequence[RankDevice]) -> str:
    by_type = {kind: [each for each in ranks if each.device.startswith(kind)] for kind in ("cuda", "cpu")}
    if not all(by_type.values()):
        return ""
    return (
        f"train.device: {_names(by_type['cuda'])} found a GPU, {_names(by_type['cpu'])} found none; wanted the same on "
        f"all ranks: run kws doctor on {by_type['cpu'][0].host}, or use {ON_CPU} for all"
    )


def _shared(ranks: Sequence[RankDevice]) -> str:
    owners: dict[tuple[str, str], RankDevice] = {}
    for each in ranks:
        other = owners.setdefault((each.machine, each.alone_on), each)
        if not each.alone_on or other is each:
            continue
        here = [one for one in ranks if one.machine == each.machine]
        gpus = len({address for one in here for address in one.visible})
        return (
            f"{_counts(here, gpus)}: ranks {other.rank} and {each.rank} both use GPU {each.gpu}, and {each.why_alone}; "
            f"start {gpus} there (accelerate launch --num_processes, torchrun --nproc-per-node, sbatch "
            f"--ntasks-per-node), or use {ON_CPU}"
        )
    return ""


def _idle(ranks: Sequence[RankDevice]) -> str:
    for machine in dict.fromkeys(each.machine for each in ranks if each.gpu):
        here = [each for each in ranks if each.machine == machine]
        gpus = len({address for each in here for address in each.visible})
        if gpus > len(here):
            return (
                f"{_counts(here, gpus)}; wanted one process per GPU: --ntasks-per-node={gpus} for sbatch or srun, or "
                f"fewer GPUs, --gpus-per-node={len(here)}"
            )
    return ""


def _counts(here: Sequence[RankDevice], gpus: int) -> str:
    processes = "1 process" if len(here) == 1 else f"{len(here)} processes"
    return f"{processes} and {gpus} GPU{'s' * (gpus != 1)} on {here[0].host}"


def threads_for_all(ranks: Sequence[RankDevice]) -> int:
    """Number of torch threads for every rank: the cores that each has for itself, on the rank that has the fewest.

    A launcher starts all ranks of a machine on the same cores, which they share; SLURM may give each task its own.
    """
    shares = []
    for each in ranks:
        cores = set(each.cores)
        sharing = sum(1 for other in ranks if other.machine == each.machine and cores & set(other.cores))
        shares.append(min(len(cores) // max(1, sharing), each.most_threads or len(cores)))
    return max(1, min(shares))


def _name(each: RankDevice) -> str:
    return f"rank {each.rank} on {each.host}"


def _names(ranks: Iterable[RankDevice], most: int = 4) -> str:
    """`ranks 0, 1 on node1 and rank 4 on node2`, at the most `most` hosts."""
    by_host: dict[str, list[int]] = {}
    for each in ranks:
        by_host.setdefault(each.host, []).append(each.rank)
    texts = [f"rank{'s' * (len(found) > 1)} {', '.join(map(str, found))} on {name}" for name, found in by_host.items()]
    more = [f"{len(texts) - most} more hosts"] if len(texts) > most else []
    return " and ".join(texts[:most] + more)
