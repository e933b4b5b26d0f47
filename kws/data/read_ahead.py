"""Threads that read ahead: they are started once and serve one stream after another.

    items, in order -> thread k takes the next -> read(item) -> results in the order of the items -> consumer
                       |<---------- at most `depth` results that were not taken yet -------->|

Reading releases Python's lock (numba, libsndfile, sockets), so threads are enough. Processes would have to pass every
batch through shared memory: measured, two of them read a fourteenth of what one process reads by itself (docs/log.md).

The threads are daemons: one that waits for a silent server keeps neither a stream nor the process from ending. The end
of the process waits shortly for the others, because Python 3.11 aborts where it ends a daemon inside C++ code.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from kws.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

_EXIT_S = 2.0
"""How long the end of the process waits for threads that are reading."""
_CLOSED = "the threads that read ahead were closed"


class ReadAhead:
    """`threads` threads, started with the first stream. They end when this object is closed or freed."""

    def __init__(self, threads: int) -> None:
        self._pool = _Pool(threads)
        self._end = weakref.finalize(self, self._pool.end)

    def stream(self, read: Callable[[T], R], items: Iterator[T], depth: int) -> Generator[R, None, None]:
        """Yields read(item) of each item, in order; an exception of `read` or `items` is raised in its place.

        `items` is advanced by the threads, by one at a time. At most `depth` results wait to be taken. Closing the
        generator ends the stream; what was read ahead is dropped. Raises UsageError where the system refuses threads,
        and RuntimeError once `close` was called, also in a stream that is not at its end.
        """
        stream = _Stream(read, items, depth)
        self._pool.begin(stream)
        try:
            yield from stream.results()
        finally:
            self._pool.leave(stream)

    def close(self) -> None:
        """Ends the threads once they have read what they are reading; does not wait for them."""
        self._end()


class _Pool:
    """The threads of a ReadAhead. They refer to it and not to the ReadAhead, which would then never be freed."""

    def __init__(self, count: int) -> None:
        self._count, self._waiting = count, SimpleQueue[_Stream[Any, Any] | None]()
        self._open: list[_Stream[Any, Any]] = []
        self._has_ended = False
        self.threads: list[threading.Thread] = []

    def begin(self, stream: _Stream[Any, Any]) -> None:
        """Hands a stream to all threads, which are started if they are not running."""
        if self._has_ended:
            raise RuntimeError(_CLOSED)
        if not self.threads:
            self._start()
        self._open.append(stream)
        for _ in range(self._count):
            self._waiting.put(stream)

    def leave(self, stream: _Stream[Any, Any]) -> None:
        """Ends a stream."""
        stream.end()
        self._open.remove(stream)

    def end(self) -> None:
        """Makes all threads end."""
        self._has_ended = True
        for stream in [*self._open]:
            stream.end()
        for _ in range(self._count):
            self._waiting.put(None)

    def _start(self) -> None:
        names = [f"kws-read-{number}" for number in range(self._count)]
        self.threads = [threading.Thread(target=self._run, name=name, daemon=True) for name in names]
        _pools.add(self)
        try:
            for thread in self.threads:
                thread.start()
        except RuntimeError as error:
            self.end()
            raise UsageError(
                f"data.workers: {self._count} threads cannot be started ({error}); raise ulimit -u, or use fewer "
                "--set data.workers=..."
            ) from error

    def _run(self) -> None:
        while (stream := self._waiting.get()) is not None:
            stream.work()
            del stream  # and with it the results that were not taken


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    pools, deadline = [*_pools], time.monotonic() + _EXIT_S
    for pool in pools:
        pool.end()
    for thread in (thread for pool in pools for thread in pool.threads if thread.is_alive()):
        thread.join(max(0.0, deadline - time.monotonic()))


class _Stream(Generic[T, R]):
    """One pass over `items` by all threads."""

    def __init__(self, read: Callable[[T], R], items: Iterator[T], depth: int) -> None:
        self._read, self._items, self._ended = read, items, False
        self._room, self._turn = threading.Semaphore(depth), threading.Lock()
        self._results: SimpleQueue[Future[R] | None] = SimpleQueue()

    def results(self) -> Iterator[R]:
        """Yields the results to the consumer."""
        while (result := self._results.get()) is not None:
            found = result.result()
            self._room.release()
            del result
            yield found
            del found  # its memory may be used for a batch that is read meanwhile

    def end(self) -> None:
        """Makes the threads leave the stream. A consumer that takes more results gets an error, and does not wait."""
        self._ended = True
        self._room.release()
        closed: Future[R] = Future()
        closed.set_exception(RuntimeError(_CLOSED))
        self._results.put(closed)

    def work(self) -> None:
        """Reads until the items or the stream end; called by each thread."""
        while True:
            self._room.acquire()
            taken = self._next()
            if taken is None:
                self._room.release()  # for the next thread, which leaves too
                return
            item, result = taken
            try:
                result.set_result(self._read(item))
            except BaseException as error:  # noqa: BLE001  # raised where the result is taken
                result.set_exception(error)
            del taken, item, result

    def _next(self) -> tuple[T, Future[R]] | None:
        """Takes the next item and appends a place for its result; None at the end."""
        with self._turn:
            if self._ended:
                return None
            result: Future[R] = Future()
            try:
                item = next(self._items)
            except StopIteration:
                self._ended = True
                self._results.put(None)
                return None
            except BaseException as error:  # noqa: BLE001  # raised where the result is taken
                self._ended = True
                result.set_exception(error)
                self._results.put(result)
                return None
            self._results.put(result)
            return item, result
