import os
import signal
import threading
from collections.abc import Iterator

import pytest

from kws.distributed import signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restores the handlers of the stop signals."""
    before = {number: signal.getsignal(number) for number in signals.STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_until(stop: signals.StopRequest) -> None:
    """Waits until the thread that receives signals has set the request."""
    poll = threading.Event()
    for _ in range(6000):
        if stop:
            return
        poll.wait(0.01)
    pytest.fail("no stop request within a minute")


def test_many_signals_are_one_request_that_names_the_first() -> None:
    stop = signals.StopRequest()
    assert not stop
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        os.kill(os.getpid(), number)
    wait_until(stop)
    assert stop.signal == signal.SIGUSR2


def test_a_request_without_a_signal_names_none() -> None:
    stop = signals.StopRequest()
    stop.request(None)
    assert stop
    assert stop.signal is None
    stop.request(signal.SIGTERM)
    assert stop.signal == signal.SIGTERM


def test_ignored_stop_signals_have_no_effect() -> None:
    signals.ignore_stop_signals()
    for number in signals.STOP_SIGNALS:
        os.kill(os.getpid(), number)
