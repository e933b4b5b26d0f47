"""The ranks of a run, seen from one of them: who it is, and collective operations on Python values and tensors."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped]

from kws.errors import RankError, UsageError, user_message
from kws.transfers import Download, to_device

T = TypeVar("T")


class PendingGather:
    """Numbers of all ranks on their way. `mine`: those of this rank, (V,), on its device."""

    def __init__(self, mine: torch.Tensor, world_size: int) -> None:
        self._mine, self._all = mine, mine.new_empty(world_size, len(mine))
        # Not all_gather_into_tensor: torch 2.13 deprecates it for a name that torch 2.9 lacks.
        self._work = dist.all_gather(list(self._all), mine, async_op=True)
        self._download: Download | None = None
        if mine.device.type == "cuda":
            self._work.wait()  # only later work of the device waits, not the host
            self._download = Download(self._all)

    def result(self) -> list[list[float]]:
        """A row of V numbers for each rank; waits for them."""
        if self._download is None:
            self._work.wait()
        arrived = self._download.wait() if self._download else self._all
        rows: list[list[float]] = arrived.tolist()
        return rows


@dataclasses.dataclass(frozen=True)
class Ranks:
    """This process as one rank of `world_size`. Collective methods must be called by all ranks together."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    accelerator: Accelerator

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the run folder and prints."""
        return self.rank == 0

    @property
    def gpu_gb(self) -> float | None:
        """The most memory that this process had reserved on its GPU, in 10^9 bytes; None without one."""
        return torch.cuda.max_memory_reserved(self.device) / 1e9 if self.device.type == "cuda" else None

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order of rank, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def on_main(self, action: Callable[[], T]) -> T:
        """Runs `action` on rank 0 and returns its result on every rank. What the user can fix is raised on all ranks as
        a UsageError: also a full disk or too little memory."""
        result: list[Any] = [None, None]
        if self.is_main:
            try:
                result[0] = action()
            except (OSError, RuntimeError, MemoryError, UsageError) as error:
                result[1] = user_message(error)
                if result[1] is None:
                    raise
        if self.world_size > 1:
            dist.broadcast_object_list(result, src=0)
        if result[1] is not None:
            raise UsageError(result[1])
        found: T = result[0]
        return found

    def on_all(self, action: Callable[[], T]) -> T:
        """Runs `action` on every rank and returns this rank's result. What the user can fix on any rank is raised on
        all as a UsageError, as in on_main."""
        found: list[T] = []
        fault: str | None = None
        try:
            found.append(action())
        except (OSError, RuntimeError, MemoryError, UsageError) as error:
            fault = user_message(error)
            if fault is None:
                raise
        for rank, text in enumerate(self.gather(fault)):
            if text is not None:
                raise UsageError(f"rank {rank}: {text}" if rank else text)
        return found[0]

    def node_ranks(self) -> list[int]:
        """The ranks on this process's host."""
        hosts = self.gather(socket.gethostname())
        return [rank for rank, host in enumerate(hosts) if host == hosts[self.rank]]

    def start_gather(self, values: Sequence[float]) -> PendingGather:
        """Starts to gather equally many numbers of every rank, without waiting for the other ranks or the device; for
        several ranks."""
        mine = to_device(torch.tensor(values, dtype=torch.float64), self.device)
        return PendingGather(mine, self.world_size)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Adds float64 values over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    @contextlib.contextmanager
    def local_errors(self) -> Iterator[None]:
        """Around work that differs between ranks: a UsageError in it becomes a RankError, which this rank prints."""
        try:
            yield
        except UsageError as error:
            raise RankError(f"rank {self.rank}: {error}" if self.world_size > 1 else str(error)) from error

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def table(self, slots: int) -> list[dict[str, Any]]:
        """One row per rank, on every rank: rank, host, device, and which of the `slots` it computes."""
        share = slots // self.world_size
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        mine = {
            "rank": self.rank,
            "host": socket.gethostname(),
            "device": f"{self.device} {name}".strip(),
            "slots": f"{self.rank * share}-{(self.rank + 1) * share - 1}",
        }
        return self.gather(mine)
