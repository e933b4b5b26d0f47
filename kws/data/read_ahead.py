"""Threads that read ahead: they are started once and serve one stream after another.

    items, in order -> thread k takes the next -> read(item) -> results in the order of the items -> consumer
                       |<---------- at most `depth` results that nobody has taken ---------->|

Reading releases Python's lock (numba, libsndfile, sockets), so threads are enough. Processes would have to pass every
batch through shared memory: measured, two of them read a fourteenth of what one process reads by itself (docs/log.md).

The threads are daemons and nothing waits for them: a thread that reads from a silent server neither delays the end of a
stream nor that of the process.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from kws.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


class ReadAhead:
    """`threads` threads, started with the first stream. They end when this object is closed or freed."""

    def __init__(self, threads: int) -> None:
        self._threads, self._started = threads, False
        self._streams: SimpleQueue[_Stream[Any, Any] | None] = SimpleQueue()
        self._end = weakref.finalize(self, _end_threads, self._streams, threads)

    def stream(self, read: Callable[[T], R], items: Iterator[T], depth: int) -> Generator[R, None, None]:
        """Yields read(item) of each item, in order; an exception of `read` or `items` is raised in its place.

        `items` is advanced by the threads, by one at a time. At most `depth` results wait to be taken. Closing the
        generator ends the stream; what was read ahead is dropped. Raises UsageError where the system refuses threads.
        """
        self._start()
        stream = _Stream(read, items, depth)
        for _ in range(self._threads):
            self._streams.put(stream)
        try:
            yield from stream.results()
        finally:
            stream.end()

    def close(self) -> None:
        """Ends the threads once they have read what they are reading; does not wait for them."""
        self._end()

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        try:
            for number in range(self._threads):
                name = f"kws-read-{number}"
                threading.Thread(target=_run, args=(self._streams,), name=name, daemon=True).start()
        except RuntimeError as error:
            self.close()
            raise UsageError(
                f"data.workers: {self._threads} threads cannot be started ({error}); raise ulimit -u, or use fewer "
                "--set data.workers=..."
            ) from error


def _run(streams: SimpleQueue[_Stream[Any, Any] | None]) -> None:
    """What a thread does. It must not refer to its ReadAhead, which would then never be freed."""
    while (stream := streams.get()) is not None:
        stream.work()
        del stream  # and with it the results that nobody took


def _end_threads(streams: SimpleQueue[_Stream[Any, Any] | None], threads: int) -> None:
    for _ in range(threads):
        streams.put(None)


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
        """Makes the threads leave the stream."""
        self._ended = True
        self._room.release()

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
