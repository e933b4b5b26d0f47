"""How ranks connect: the store at rank 0, the description of each rank's device there, and the process group.

join_store -> exchange (RankDevice of every rank) -> connect: init_process_group, then the first all-reduce

The first all-reduce is here, and not in the first step, because NCCL connects only when it must, and nothing else would
notice that it uses the wrong network.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import check_cuda_p2p_ib_support  # type: ignore[import-untyped]
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from kws.distributed.gpus import first_line
from kws.distributed.rank_devices import RankDevice
from kws.errors import RankError

_READERS_S = 10.0
_ASYNC_ERRORS = ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING")


def join_store(timeout: timedelta) -> Any:
    """The store that all ranks share, once all have joined it; None for a process that no launcher started."""
    if "RANK" not in os.environ:
        return None
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    return store


def exchange(store: Any, own: RankDevice) -> list[RankDevice]:
    """The description of every rank's device, in order of rank."""
    if store is None:
        return [own]
    shared, world_size = PrefixStore("kws", store), int(os.environ["WORLD_SIZE"])
    shared.set(f"device/{own.rank}", own.to_json())
    texts = shared.multi_get([f"device/{rank}" for rank in range(world_size)])
    return [RankDevice.from_json(text.decode()) for text in texts]


def wait_for_readers(store: Any, world_size: int) -> None:
    """Before all ranks leave with the same error: rank 0, which has the store, waits until all others have read it."""
    if store is None:
        return
    shared = PrefixStore("kws", store)
    shared.add("readers", 1)
    deadline = time.monotonic() + _READERS_S
    while os.environ["RANK"] == "0" and shared.add("readers", 0) < world_size and time.monotonic() < deadline:
        time.sleep(0.02)


def backend_of(device: torch.device) -> str:
    """The backend of torch.distributed for a device."""
    return "nccl" if device.type == "cuda" else "gloo"


def connect(store: Any, device: torch.device, timeout: timedelta) -> None:
    """Makes the process group, and connects all ranks by a first all-reduce. Nothing for a process without a store."""
    if store is None:
        return
    rank, world_size, backend = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), backend_of(device)
    dist.init_process_group(
        backend, store=PrefixStore("default_pg", store), rank=rank, world_size=world_size,
        timeout=timeout,
        # With the device NCCL connects at once. A single rank has no other rank to connect to (DeepSpeed #8248).
        device_id=device if backend == "nccl" and world_size > 1 else None,
    )  # fmt: skip
    count = torch.ones(1, device=device)
    dist.all_reduce(count)
    assert int(count.item()) == world_size, f"all-reduce over {world_size} ranks: {count.item()}"


def leave_faults_to_watchdog(environ: MutableMapping[str, str] = os.environ) -> None:
    """Keeps torch's own NCCL watchdog from aborting the process (SIGABRT, code 134) when another rank has ended.

    kws/distributed/watchdog.py ends all ranks and names the one at fault. Not for a process without that watchdog, nor
    where the variable is set. "0" is NoHandling of ProcessGroupNCCL.hpp; "2" would let the step continue with the
    numbers of an aborted all-reduce.
    """
    if not any(name in environ for name in _ASYNC_ERRORS):
        environ[_ASYNC_ERRORS[0]] = "0"


def avoid_missing_transports(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switches off what several GPUs of the RTX 40 series cannot do with an older driver, as accelerate launch does.

    Under torchrun and srun Accelerator would raise NotImplementedError instead.
    """
    if not check_cuda_p2p_ib_support():
        environ.setdefault("NCCL_P2P_DISABLE", "1")
        environ.setdefault("NCCL_IB_DISABLE", "1")


@contextlib.contextmanager
def connection_errors() -> Iterator[None]:
    """Raises RankError, one line that this rank prints, for torch's errors of joining and connecting."""
    try:
        yield
    except RuntimeError as error:
        rank, where = os.environ.get("RANK", "0"), socket.gethostname()
        raise RankError(f"rank {rank} on {where}: {_explanation(error)}") from error


def _explanation(error: RuntimeError) -> str:
    text = str(error)
    if "EADDRINUSE" in text or "address already in use" in text:
        port = os.environ.get("MASTER_PORT", "?")
        return f"MASTER_PORT: {port} is in use by another process; set another port, or 0 in the launch file"
    last = [line for line in text.splitlines() if line.strip() and not line.startswith("Last error")]
    reason = f"{first_line(error)} {last[-1].strip()[:200] if 'Last error' in text else ''}".strip()
    return f"cannot connect to the other ranks ({reason}); see their messages, or {network_advice()}"


def network_advice() -> str:
    """What to do where the ranks cannot reach each other."""
    return (
        "name the network between the nodes, NCCL_SOCKET_IFNAME=ib0 for GPUs, GLOO_SOCKET_IFNAME=ib0 for CPUs (ip addr "
        "lists them; NCCL_DEBUG=INFO shows what NCCL tries)"
    )
