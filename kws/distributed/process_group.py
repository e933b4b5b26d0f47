"""Joining and leaving the process group; device, threads and Accelerator of this rank; DDP.

accelerate launch, torchrun -> RANK, WORLD_SIZE      srun -> SLURM_PROCID (kws/distributed/slurm.py)      else one rank
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
)

from kws.config import TrainConfig
from kws.distributed import deepspeed_zero, slurm
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.machine import keep_freed_memory, usable_cores

START_S = 60.0
"""Before the first step a stage may take this long even where train.hang_s is shorter: ranks import torch at different
speeds."""
_LAUNCHER_S = 5.0
"""A launcher signals the other ranks within this time after one has ended."""


@contextlib.contextmanager
def start(settings: TrainConfig) -> Iterator[Ranks]:
    """Joins the process group, and leaves it at the end of the with block.

    Raises UsageError if the number of processes is not `train.processes`, or if `train.device` does not exist.
    """
    slurm.adopt_srun_step()
    keep_freed_memory()
    cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if settings.device == "cuda" and cpu:
        raise UsageError("train.device: cuda, but torch sees no GPU here; use --set train.device=cpu")
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = settings.threads or (1 if settings.reduction == "exact" else max(1, usable_cores() // local_size))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    # Longer than the watchdog waits (kws/distributed/watchdog.py), so that the watchdog's message comes first.
    timeout = timedelta(seconds=max(1800.0, settings.hang_s + 120.0))
    with time_limit(settings.hang_s, _not_joined()):
        accelerator = (
            deepspeed_zero.create_accelerator(settings, cpu, timeout) if settings.zero else _accelerator(cpu, timeout)
        )
    torch.set_num_threads(threads)  # Accelerator may have set its own number
    try:
        found = accelerator.num_processes
        _check_processes(settings, found)
        device = torch.device("cpu") if cpu else accelerator.device  # not accelerate's "cpu:0"
        yield Ranks(accelerator.process_index, found, device, threads, accelerator)
    finally:
        # In this order: the accelerator holds the models, and gloo aborts a process whose DDP outlives the group.
        accelerator.free_memory()
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def time_limit(hang_s: float, activity: str) -> Iterator[None]:
    """Limits how long this process may take to join the others or to read the corpus: max(START_S, train.hang_s).

    For what comes before the watchdog. Torch alone would wait for half an hour. A rank that fails here because another
    one was stopped waits for the launcher's signal, which ends it in the same order (kws/run/early_stop.py).
    """

    def end() -> None:
        rank = os.environ.get("RANK", "0")
        print(
            f"kws: rank {rank} on {socket.gethostname()}: {activity} within {limit_s:.0f} s; see the messages of the "
            "other ranks, or use a longer --set train.hang_s=...",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        faulthandler.dump_traceback(all_threads=True)
        os._exit(1)

    limit_s = max(START_S, hang_s)
    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    if hang_s:
        timer.start()
    try:
        yield
    except RuntimeError:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            time.sleep(_LAUNCHER_S)
        raise
    finally:
        timer.cancel()


def _not_joined() -> str:
    where = f"{main_address()}:{os.environ.get('MASTER_PORT', '?')}"
    return f"not all {os.environ.get('WORLD_SIZE', '1')} ranks joined the process group at {where}"


def main_address() -> str:
    """Address at which the other ranks reach rank 0."""
    return os.environ.get("MASTER_ADDR", "127.0.0.1")


def _accelerator(cpu: bool, timeout: timedelta) -> Accelerator:
    return Accelerator(
        cpu=cpu,
        mixed_precision="no",  # our settings decide, not the launcher's
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timeout),
        ],
    )


def _check_processes(settings: TrainConfig, found: int) -> None:
    """Refuses another number of processes than `train.processes`, such as a launcher that silently started one."""
    wanted = settings.processes
    if wanted not in (0, found):
        other = f", or use --set train.processes={found}" if settings.slots % found == 0 else ""
        raise UsageError(
            f"train.processes: {wanted} wanted, {found} started; start kws through accelerate launch "
            f"--num_processes {wanted}, torchrun or srun{other}"
        )


def wrap_ddp(ranks: Ranks, model: torch.nn.Module) -> torch.nn.Module:
    """The model in DDP, if there are several ranks. Buffers are not broadcast, because each slot has its own batch-norm
    statistics, which kws/training/slots.py averages."""
    with warnings.catch_warnings():
        # torch warns about broadcast_buffers=False; accelerate has no other field for it.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
        wrapped: torch.nn.Module = ranks.accelerator.prepare_model(model)
    return wrapped
