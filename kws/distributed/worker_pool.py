"""Processes that work for this one: items go out and results come back in order, a bounded number ahead.

They are started afresh, so nothing of this process is in them but what a item brings along. They end with it, whatever
ends it. With one process the items are simply called.
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


class WorkerLostError(RuntimeError):
    """A worker has ended, not by its own doing."""


class Workers:
    """So many processes, to be used in a with statement."""

    def __init__(self, processes: int) -> None:
        self._ahead, self._stack = 2 * processes, contextlib.ExitStack()
        self._pool = None if processes == 1 else ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _begin, (os.getpid(),)
        )  # fmt: skip

    def __enter__(self) -> Workers:
        if self._pool:
            self._stack.callback(self._pool.shutdown, cancel_futures=True)  # waits for the items in hand
            self._stack.enter_context(_ended_in_order())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items, which are taken as they are needed. `function`: one of a module.

        Raises WorkerLostError, and whatever the function raises.
        """
        if self._pool is None:
            yield from map(function, items)
            return
        waiting = collections.deque[Future[Result]]()
        try:
            for item in items:
                with _unheard(signal.SIGINT):  # a worker inherits that: Ctrl-C is for this process to hear
                    waiting.append(self._pool.submit(function, item))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerLostError("a worker process has ended; was it killed, or memory short?") from error


def _begin(parent: int) -> None:
    parent_death.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it had ended before
        os._exit(1)


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Holds the signal back meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM leaves through the with statements, so that the workers are sent home and nothing warns of them."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
