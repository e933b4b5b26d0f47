"""Threads that read ahead: the order of the items, a bound on results, errors where they belong, no waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from kws.data.read_ahead import ReadAhead
from kws.errors import UsageError
from tests.conftest import ROOT


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("kws-read-")]


@pytest.mark.parametrize("threads", [1, 3])
def test_results_have_the_order_of_the_items_and_streams_share_the_threads(threads: int) -> None:
    used, ahead = set[int](), ReadAhead(threads)

    def read(number: int) -> int:
        used.add(threading.get_ident())
        return number * number

    for count in (5, 0, 40):
        assert list(ahead.stream(read, iter(range(count)), depth=4)) == [number * number for number in range(count)]
    assert len(used) <= threads
    assert threading.get_ident() not in used


def test_a_later_item_may_be_read_first_and_is_given_out_later() -> None:
    second_is_read = threading.Event()

    def read(number: int) -> int:
        if number == 0:
            second_is_read.wait()
        if number == 1:
            second_is_read.set()
        return number

    assert list(ReadAhead(2).stream(read, iter(range(4)), depth=2)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("threads", "depth"), [(1, 1), (1, 3), (3, 2)])
def test_at_most_so_many_results_wait(threads: int, depth: int) -> None:
    begun = list[int]()

    def read(number: int) -> int:
        begun.append(number)
        return number

    with closing(ReadAhead(threads).stream(read, iter(range(100)), depth)) as stream:
        for taken, number in enumerate(stream, start=1):
            assert number == taken - 1
            assert len(begun) <= taken + depth
            if taken in (1, 50):
                assert eventually(lambda wanted=taken + depth: len(begun) == wanted)  # type: ignore[misc]


def test_an_error_is_raised_in_the_place_of_its_result_with_its_type() -> None:
    def read(number: int) -> int:
        if number == 3:
            raise UsageError("clip 3")
        return number

    def items() -> Iterator[int]:
        yield from (1, 2)
        raise KeyError("plan")

    ahead, taken = ReadAhead(2), list[int]()
    with pytest.raises(UsageError, match="clip 3"):
        taken.extend(ahead.stream(read, iter(range(9)), depth=2))
    assert taken == [0, 1, 2]
    with pytest.raises(KeyError, match="plan"):
        list(ahead.stream(read, items(), depth=4))
    assert list(ahead.stream(read, iter([1, 2]), depth=4)) == [1, 2], "the next stream is not affected"


def test_closing_waits_for_no_thread_and_the_others_serve_the_next_stream() -> None:
    answer, asked = threading.Event(), threading.Event()

    def ask(number: int) -> int:
        if number == 1:
            asked.set()
            answer.wait()
        return number

    ahead = ReadAhead(2)
    stream = ahead.stream(ask, iter(range(2)), depth=2)
    assert next(stream) == 0
    asked.wait()
    stream.close()  # a wait for the silent thread would never end
    assert list(ahead.stream(lambda number: number, iter(range(5)), depth=2)) == list(range(5))
    answer.set()


def test_threads_end_when_their_reader_is_closed_or_freed() -> None:
    before = set(reading_threads())
    closed, freed = ReadAhead(2), ReadAhead(2)
    for ahead in (closed, freed):
        assert list(ahead.stream(str, iter(range(3)), depth=2)) == ["0", "1", "2"]
    assert len(set(reading_threads()) - before) == 4
    closed.close()
    del freed, ahead
    assert eventually(lambda: not set(reading_threads()) - before)


def test_after_closing_a_stream_is_an_error_and_does_not_wait() -> None:
    used, unused = ReadAhead(1), ReadAhead(1)
    begun = used.stream(str, iter(range(50)), depth=2)
    assert next(begun) == "0"
    for ahead in (used, unused):
        ahead.close()
        with pytest.raises(RuntimeError, match="closed"):
            next(ahead.stream(str, iter(range(3)), depth=2))
    with pytest.raises(RuntimeError, match="closed"):
        list(begun)


def test_a_stream_that_was_never_used_keeps_no_thread() -> None:
    ahead = ReadAhead(1)
    ahead.stream(str, iter(range(3)), depth=1).close()
    assert list(ahead.stream(str, iter(range(2)), depth=1)) == ["0", "1"]


def test_threads_that_the_system_refuses_are_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(UsageError, match=r"data\.workers"):
        list(ReadAhead(5).stream(str, iter(range(3)), depth=1))


EXIT = """
import threading
from kws.data.read_ahead import ReadAhead
asked, ended = threading.Event(), threading.Event()
def wait(number):
    asked.set()
    threading.Event().wait(0.2 if SHORT else None)
    ended.set()
stream = ReadAhead(2).stream(wait, iter(range(1000)), 2)
threading.Thread(target=next, args=(stream, None), daemon=True).start()
asked.wait()
import atexit
atexit._run_exitfuncs()
print(ended.is_set())
"""


@pytest.mark.parametrize("short", [True, False])
def test_the_process_waits_for_threads_that_read_but_not_for_silent_ones(short: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXIT.replace("SHORT", str(short))],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{short}\n"), done.stderr
