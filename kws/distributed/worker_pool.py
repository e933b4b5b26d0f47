"""A pool of worker processes: items are sent out, results come back in order, a bounded number of items in advance.

The workers are spawned, so they share nothing with this process but what an item carries. They end when this process
ends, for whatever reason. With one process the function is called in this process.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from kws.distributed import parent_death

Item = TypeVar("Item")
Result = TypeVar("Result")


_LOST = (
    "a worker process was killed or crashed, probably because memory is short (dmesg | grep -i oom, or the memory "
    "limit of the container or job)"
)


class WorkerLostError(RuntimeError):
    """A worker process ended unexpectedly, for example because it was killed."""


class Workers:
    """A pool of `processes` workers, to be used in a with statement."""

    def __init__(self, processes: int) -> None:
        self._max_waiting, self._stack = 2 * processes, contextlib.ExitStack()
        self._pool = None if processes == 1 else ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _start_worker, (os.getpid(),)
        )  # fmt: skip

    def __enter__(self) -> Workers:
        if self._pool:
            self._stack.callback(self._pool.shutdown, cancel_futures=True)  # waits for the items being worked on
            self._stack.enter_context(_exit_on_sigterm())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items, which are taken from the iterable only as they are needed.

        `function` must be a function of a module. Raises WorkerLostError, and whatever the function raises.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        waiting = collections.deque[Future[Result]]()
        try:
            for item in items:
                # Workers inherit it: Ctrl-C and the end of a terminal are for this process to handle.
                with _blocked(signal.SIGINT, signal.SIGHUP):
                    waiting.append(self._pool.submit(function, item))
                if len(waiting) > self._max_waiting:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerLostError(_LOST) from error


def _start_worker(parent: int) -> None:
    parent_death.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the line above
        os._exit(1)


@contextlib.contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Blocks signals in the with block; they are delivered after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM raises SystemExit in the with block, so that the pool is shut down without warnings; unless the command
    handles it (kws/commands/terminal.py)."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
