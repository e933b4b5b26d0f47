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
from kws.distributed import deepspeed_zero, rank_devices, rendezvous, slurm
from kws.distributed.arithmetic import set_up_gpu_arithmetic
from kws.distributed.device import choose_device, probe
from kws.distributed.rank_devices import RankDevice
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.machine import keep_freed_memory

START_S = 60.0
"""Before the first step a stage may take this long even where train.hang_s is shorter: ranks import torch at different
speeds."""
_LAUNCHER_S = 5.0
"""A launcher signals the other ranks within this time after one has ended."""


@contextlib.contextmanager
def start(settings: TrainConfig, training: bool = False) -> Iterator[Ranks]:
    """Joins the process group, and leaves it at the end of the with block.

    `training`: for a training, which has a watchdog; then every GPU that SLURM gave must have its process. Raises
    UsageError on all ranks if the number of processes is not `train.processes`, if `train.device` does not exist, if a
    GPU does not work or two ranks share one, and on the rank concerned if it cannot connect to the others.
    """
    by_srun = slurm.adopt_srun_step()
    keep_freed_memory()
    if settings.zero:
        deepspeed_zero.require_group()
    # Longer than the watchdog waits (kws/distributed/watchdog.py), so that the watchdog's message comes first.
    timeout = timedelta(seconds=max(1800.0, settings.hang_s + 120.0))
    with time_limit(settings.hang_s, "the GPU did not answer", "nvidia-smi shows its state"):
        own, device = _own_device(settings, slurm.cores_per_task() if by_srun else 0)
    with rendezvous.connection_errors(), time_limit(settings.hang_s, _not_joined(), rendezvous.network_advice()):
        store = rendezvous.join_store(timeout)
        ranks = rendezvous.exchange(store, own)
    fault = rank_devices.find_fault(ranks, all_gpus=training and by_srun and slurm.gives_gpus())
    if fault:
        rendezvous.wait_for_readers(store, len(ranks))
        raise UsageError(fault)
    threads = settings.threads or (1 if settings.reduction == "exact" else rank_devices.threads_for_all(ranks))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    if device.type == "cuda":
        rendezvous.avoid_missing_transports()
        if training and settings.hang_s:
            rendezvous.leave_faults_to_watchdog()
    not_connected = "the ranks did not connect to each other"
    with rendezvous.connection_errors(), time_limit(settings.hang_s, not_connected, rendezvous.network_advice()):
        rendezvous.connect(store, device, timeout)
    with contextlib.ExitStack() as leaving:
        leaving.callback(_leave_group)
        accelerator = _accelerator(settings, device, timeout)
        # Before the group: the accelerator holds the models, and gloo aborts a process whose DDP outlives the group.
        leaving.callback(accelerator.free_memory)
        torch.set_num_threads(threads)  # Accelerator may have set its own number
        _check_processes(settings, accelerator.num_processes)
        yield Ranks(accelerator.process_index, accelerator.num_processes, device, threads, accelerator)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_device(settings: TrainConfig, most_threads: int) -> tuple[RankDevice, torch.device]:
    """The device of this rank, and its description for the other ranks. A fault is kept for all ranks to see."""
    device, fault = torch.device("cpu"), ""
    try:
        device = choose_device(settings.device)
        if device.type == "cuda":
            set_up_gpu_arithmetic(settings.is_deterministic)
        fault = probe(device)
    except UsageError as error:
        fault = str(error)
    own = rank_devices.describe(device, fault, most_threads)
    # Accelerate and DeepSpeed take this for the number of the GPU, also where the process sees a single one.
    if own.gpu and "RANK" in os.environ:
        os.environ["LOCAL_RANK"] = str(device.index)
    return own, device


@contextlib.contextmanager
def time_limit(hang_s: float, activity: str, advice: str = "") -> Iterator[None]:
    """Limits how long this process may take to join the others or to read the corpus: max(START_S, train.hang_s).

    `activity`: what was not done in time; `advice`: what the user can do.

    For what comes before the watchdog. Torch alone would wait for half an hour. A rank that fails here because another
    one was stopped waits for the launcher's signal, which ends it in the same order (kws/run/early_stop.py).
    """

    def end() -> None:
        rank = os.environ.get("RANK", "0")
        print(
            f"kws: rank {rank} on {socket.gethostname()}: {activity} within {limit_s:.0f} s; see the messages of the "
            f"other ranks; {advice + ', or ' if advice else ''}use a longer --set train.hang_s=...",
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


def _accelerator(settings: TrainConfig, device: torch.device, timeout: timedelta) -> Accelerator:
    """The Accelerator of this rank, on `device`. The process group, if there is one, exists already."""
    if settings.zero:
        accelerator = deepspeed_zero.create_accelerator(settings, device, timeout)
    else:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",  # our settings decide, not the launcher's
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                InitProcessGroupKwargs(timeout=timeout),
            ],
        )
    if accelerator.device.type != device.type:
        raise UsageError(
            f"train.device: {device.type} wanted, but accelerate uses {accelerator.device}; remove "
            "ACCELERATE_TORCH_DEVICE and ACCELERATE_USE_CPU from the environment, or use another launch file"
        )
    return accelerator


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
