"""Who this process is among the others: rank, device, threads, signals, Accelerator. Sole reader of RANK and SLURM_*,
but for kws.cli, which asks them who prints an error before anything is started.

accelerate launch | torchrun -> RANK, WORLD_SIZE        srun -> SLURM_PROCID (only inside a step)        else one
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
)

from kws.config import TrainConfig
from kws.distributed import deepspeed_zero
from kws.errors import RankError, UsageError, mendable

T = TypeVar("T")
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Turns any number of stop signals, here or at another rank, and RUN/stop into one request; the loop asks for it.

    Only a second SIGINT, at least 3 s after the first, ends the process at once, with 130: checkpoints are moved into
    place whole, so nothing half-written stays.

    A thread hears them: Python calls a signal's handler between two steps of its own, so not while a collective
    operation waits for a rank that hangs, when a person most wants to be heard.
    """

    FORCE_AFTER_S = 3.0

    def __init__(self) -> None:
        self.asked = False
        self.signal: int | None = None
        self._first_interrupt = math.inf
        numbers, self._kept = socket.socketpair()
        self._kept.setblocking(False)
        signal.set_wakeup_fd(self._kept.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._listen, args=(numbers,), name="signals", daemon=True).start()

    def _listen(self, numbers: socket.socket) -> None:
        while True:
            for number in numbers.recv(64):
                if number in STOP_SIGNALS:  # others have handlers too, such as the loader's for SIGCHLD
                    self._remember(number)

    def _remember(self, number: int) -> None:
        self.request(number)
        if number == signal.SIGINT:
            now = time.monotonic()
            if now - self._first_interrupt >= self.FORCE_AFTER_S:
                if sys.stdout.isatty():
                    os.write(1, b"\033[?25h")  # the cursor, which a live display hides
                os._exit(130)
            self._first_interrupt = min(now, self._first_interrupt)

    def request(self, number: int | None) -> None:
        """By a signal, or without one. The first signal is the one that is told."""
        self.signal = self.signal or number
        self.asked = True

    def __bool__(self) -> bool:
        return self.asked


def ignore_stops() -> None:
    """For a process that only has to end: Python gives signals back to the system before it does, and one more of those
    that stopped it would change its exit code."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """One process of a run."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    accelerator: Accelerator

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes and prints."""
        return self.rank == 0

    @property
    def gpu_gb(self) -> float | None:
        """The most memory that this process had reserved on its GPU, in 10^9 bytes; None without one."""
        return torch.cuda.max_memory_reserved(self.device) / 1e9 if self.device.type == "cuda" else None

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, action: Callable[[], T]) -> T:
        """Rank 0's result on every rank; what the user must mend there is raised on all."""
        result: list[Any] = [None, None]
        if self.is_main:
            try:
                result[0] = action()
            except (UsageError, OSError) as error:
                result[1] = mendable(error)
                if result[1] is None:
                    raise
        if self.world_size > 1:
            dist.broadcast_object_list(result, src=0)
        if result[1] is not None:
            raise UsageError(result[1])
        found: T = result[0]
        return found

    def together(self, action: Callable[[], T]) -> T:
        """This rank's result of what every rank does for itself; a mistake that any of them met is raised on all."""
        found: list[T] = []
        fault: str | None = None
        try:
            found.append(action())
        except UsageError as error:
            fault = str(error)
        for rank, text in enumerate(self.gather(fault)):
            if text is not None:
                raise UsageError(f"rank {rank}: {text}" if rank else text)
        return found[0]

    def node_ranks(self) -> list[int]:
        """The ranks on this process's host."""
        hosts = self.gather(socket.gethostname())
        return [rank for rank, host in enumerate(hosts) if host == hosts[self.rank]]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Adds float64 values over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Around work that a rank does for itself: what it meets there is no other rank's to say."""
        try:
            yield
        except UsageError as error:
            raise RankError(f"rank {self.rank}: {error}" if self.world_size > 1 else str(error)) from error

    def barrier(self) -> None:
        """Waits for every rank."""
        if self.world_size > 1:
            dist.barrier()

    def table(self, slots: int) -> list[dict[str, Any]]:
        """One row a rank: rank, host, device, slots."""
        share = slots // self.world_size
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        mine = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "device": f"{self.device} {name}".strip(),
            "slots": f"{self.rank * share}-{(self.rank + 1) * share - 1}",
        }
        return self.gather(mine)


@contextlib.contextmanager
def start(settings: TrainConfig) -> Iterator[Runtime]:
    """Joins the other processes, and leaves them in the order in which gloo does not abort.

    Raises UsageError where the number that came up is not `processes`, or the device asked for is not there.
    """
    _adopt_srun_step()
    keep_freed_memory()
    cpu = settings.device == "cpu" or not torch.cuda.is_available()
    if settings.device == "cuda" and cpu:
        raise UsageError("train.device: cuda, but torch sees no GPU here; use --set train.device=cpu")
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = settings.threads or (1 if settings.reduction == "exact" else max(1, _cores() // local_size))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
    timeout = timedelta(seconds=max(1800.0, settings.hang_s + 120.0))  # none gives up before kws/distributed/watchdog.py does
    with _end_if_alone(settings.hang_s):
        accelerator = deepspeed_zero.accelerator(settings, cpu, timeout) if settings.zero else _accelerator(cpu, timeout)
    torch.set_num_threads(threads)  # Accelerator may have set its own
    try:
        found = accelerator.num_processes
        _check_processes(settings, found)
        device = torch.device("cpu") if cpu else accelerator.device  # not accelerate's "cpu:0"
        yield Runtime(accelerator.process_index, found, device, threads, accelerator)
    finally:
        accelerator.free_memory()  # it keeps the models: DDP that outlives its process group aborts the process
        if dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def _end_if_alone(hang_s: float) -> Iterator[None]:
    """Around meeting the other processes, of which one may have ended before: torch would wait for half an hour."""

    def end() -> None:
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        where = f"{address()}:{os.environ.get('MASTER_PORT', '?')}"
        print(
            f"kws: rank {rank} on {socket.gethostname()}: the {size} processes did not all meet at {where} within "
            f"{patience_s:.0f} s; see what the others said, or use a longer --set train.hang_s=...",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        os._exit(1)

    patience_s = max(60.0, hang_s)  # one may import torch long before another
    timer = threading.Timer(patience_s, end)
    timer.daemon = True
    if hang_s:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def address() -> str:
    """Where the other processes reach rank 0."""
    return os.environ.get("MASTER_ADDR", "127.0.0.1")


def cluster_job() -> str | None:
    """The Slurm job that this process is part of."""
    return os.environ.get("SLURM_JOB_ID")


def _accelerator(cpu: bool, timeout: timedelta) -> Accelerator:
    return Accelerator(
        cpu=cpu,
        mixed_precision="no",  # the settings decide, not what the launcher was told
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timeout),
        ],
    )


def _check_processes(settings: TrainConfig, found: int) -> None:
    """Other than asked for is an error: a launcher that silently started one process costs a night."""
    wanted = settings.processes
    if wanted not in (0, found):
        other = f", or use --set train.processes={found}" if settings.slots % found == 0 else ""
        raise UsageError(
            f"train.processes: {wanted} wanted, {found} came up; start kws through accelerate launch "
            f"--num_processes {wanted}, torchrun or srun{other}"
        )


def wrap(runtime: Runtime, model: torch.nn.Module) -> torch.nn.Module:
    """The model as DDP where there are several processes. Buffers are not broadcast: no rank is special."""
    with warnings.catch_warnings():
        # accelerate has no other field for it yet.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
        wrapped: torch.nn.Module = runtime.accelerator.prepare_model(model)
    return wrapped


def environment(runtime: Runtime) -> dict[str, Any]:
    """What the run ran on, for run.json."""
    from importlib.metadata import version

    names = ("kws", "torch", "torchaudio", "webdataset", "accelerate", "deepspeed", "librosa", "numpy", "soundfile")
    return {
        "versions": {name: version(name) for name in names},
        "commit": _commit(),
        "hardware": {"cpu": _cpu_name(), "cores": _cores(), "host": socket.gethostname()},
        "job": cluster_job(),
        "world_size": runtime.world_size,
        "threads": runtime.threads,
    }


def keep_freed_memory() -> None:
    """Lets glibc keep what a step frees for the next one. By default every tensor over 32 MB (at first 128 KB) comes
    fresh from the kernel and is cleared page by page: int16 to float took 52 us a clip so, and 4 us without."""
    mmap_threshold, top_pad, trim_threshold = -3, -2, -1
    with contextlib.suppress(OSError, AttributeError):  # another libc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        if not mallopt(mmap_threshold, 2**30):
            mallopt(mmap_threshold, 2**25)  # the most that older glibc takes
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)


def _in_srun_step(env: Mapping[str, str]) -> bool:
    # A batch shell has SLURM_PROCID=0 too; only a step has SLURM_STEP_NUM_TASKS.
    return "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env


def _adopt_srun_step(environ: dict[str, str] | None = None) -> None:
    """Says RANK, WORLD_SIZE and the rest where only srun has spoken."""
    env: Any = os.environ if environ is None else environ
    if "RANK" in env or not _in_srun_step(env):
        return
    env["RANK"], env["WORLD_SIZE"] = env["SLURM_PROCID"], env["SLURM_STEP_NUM_TASKS"]
    env["LOCAL_RANK"] = env["SLURM_LOCALID"]
    env["LOCAL_WORLD_SIZE"] = _tasks_here(env)
    if "MASTER_ADDR" not in env:
        env["MASTER_ADDR"] = _first_host(env["SLURM_STEP_NODELIST"])
    # A port of the job's own, so that two jobs on one node do not meet, and below those that Linux deals out (32768).
    env.setdefault("MASTER_PORT", str(20_000 + int(env["SLURM_JOB_ID"]) % 12_000))


def _tasks_here(env: Mapping[str, str]) -> str:
    """SLURM_STEP_TASKS_PER_NODE, such as `2(x3),1`, at this node."""
    counts: list[str] = []
    for part in env["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.partition("(x")
        counts += [count] * int(times.rstrip(")") or 1)
    return counts[int(env["SLURM_NODEID"])]


def _first_host(nodes: str) -> str:
    """Of a Slurm node list, such as gpu01 of `gpu[01-03,07],login`. Not by scontrol, which a container lacks."""
    first = re.match(r"(\[[^\]]*\]|[^,\[])+", nodes)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0] if first else nodes)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def _commit() -> str | None:
    """The commit of the code that runs, where it is a checkout and there is a git."""
    with contextlib.suppress(OSError):
        shown = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return shown.stdout.strip() or None
    return None
