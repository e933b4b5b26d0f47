"""What the tests of the worker pool run in workers. Apart from the tests, so that no worker imports torch or pytest."""

import os
import signal
import time


def slow_square(number: int) -> int:
    time.sleep(0.02 if number % 2 else 0.0)
    return number * number


def process_id(_: int) -> int:
    return os.getpid()


def fail(number: int) -> int:
    raise ValueError(f"{number} is wrong")


def kill_itself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
