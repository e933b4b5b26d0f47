"""The processes of a data loader: their start, what they need of /dev/shm, and what ends them.

    batch -> shared memory (/dev/shm), in the worker itself -> its number through a queue -> the training

A queue sends from a thread, and drops what it cannot send, so that the training would wait for ever: too little
/dev/shm, as in a container, or too many open files. Here both end the worker, and with it the training, with a line.
"""

from __future__ import annotations

import errno
import multiprocessing.queues
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from kws.distributed import parent_death, signals
from kws.errors import UsageError, user_message
from kws.system_errors import AGAIN, SHARED_MEMORY, loader_message, open_files_advice, shared_memory_advice

T = TypeVar("T")
_DESCRIPTORS_OF_WORKER = 4
"""Descriptors of the rank for a worker: two of its queue, two of its process."""
_DESCRIPTORS_OF_BATCH = 8
"""The queue of all batches has two, and each of the six tensors of a batch one."""


def init_worker(_: int) -> None:
    """Makes a loader worker ignore the signals that its rank handles, and end together with its rank."""
    for number in signals.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent_death.end_with_parent(signal.SIGKILL)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: BaseException, _: object) -> None:
    """Ends this worker: it cannot send a batch. Python's own way is to print a traceback and to drop the batch."""
    print(f"kws: {user_message(error) or loader_message(str(error))}", file=sys.stderr, flush=True)
    os._exit(1)


def share(batch: Iterable[object]) -> None:
    """Moves a batch's tensors into shared memory. Raises RuntimeError where /dev/shm is full."""
    for value in batch:
        if isinstance(value, Tensor) and value.numel():  # an empty one needs none, and cannot be mapped
            value.share_memory_()  # type: ignore[no-untyped-call]


def named_errors(items: Iterable[T]) -> Iterator[T]:
    """The items of a loader. Raises UsageError with what to type where a worker ended or the system refused one."""
    try:
        yield from items
    except UsageError:
        raise
    except (OSError, EOFError, RuntimeError) as error:
        # torch raises a worker's end from this signal's handler, again at any later line and end of a process.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # the loader's semaphores are there too
            raise UsageError(f"{shared_memory_advice()}, {AGAIN}") from error
        if isinstance(error, (ConnectionError, FileNotFoundError, EOFError)):  # a batch whose worker ended
            raise UsageError(loader_message("DataLoader worker exited unexpectedly")) from error
        line = user_message(error)
        if line is None:
            raise
        raise UsageError(line) from error


def require_descriptors(workers: int, files_to_open: int = 0) -> None:
    """Raises UsageError where this process may not open the descriptors that the workers need at the least.

    `files_to_open`: those that it will open before.
    """
    try:
        open_now = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return  # another system than Linux
    needed = open_now + files_to_open + workers * _DESCRIPTORS_OF_WORKER + _DESCRIPTORS_OF_BATCH
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > soft != resource.RLIM_INFINITY:
        raise UsageError(f"{workers} loader workers need {needed} open files or more: {open_files_advice()}, {AGAIN}")


def require_shared_memory(workers: int, batches_ahead: int, batch_bytes: int) -> None:
    """Raises UsageError where /dev/shm has no room for what the workers of this host's ranks put there."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = ranks * (workers * batches_ahead + 2) * batch_bytes  # two: in use, and on its way
    try:
        usage: Any = shutil.disk_usage(SHARED_MEMORY)
    except OSError:
        return  # another system than Linux
    if needed > usage.free:
        raise UsageError(
            f"{SHARED_MEMORY} has {usage.free / 1e6:,.0f} MB free of {usage.total / 1e6:,.0f}, and {workers} loader "
            f"workers put up to {needed / 1e6:,.0f} MB there ({ranks} x {workers * batches_ahead + 2} batches of "
            f"{batch_bytes / 1e6:.1f} MB): {shared_memory_advice(needed)}, {AGAIN}"
        )
