from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kws.distributed.ranks import Ranks
from kws.distributed.signals import STOP_SIGNALS
from kws.run.attempt import Attempt


class Alone:
    """Stands where accelerate's would: nothing here asks for it."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Attempt]:
    """Of a process alone, not entered yet."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield Attempt(tmp_path, Ranks(0, 1, torch.device("cpu"), 1, Alone()), hang_s=0.0, step=lambda: 0)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stop_left_from_before_is_not_asked_of_this_start(session: Attempt, tmp_path: Path) -> None:
    (tmp_path / "stop").touch()
    with session:
        time.sleep(1.5)  # a start that takes longer than the first look at it
        assert not session.stop


def test_a_stop_asked_while_a_run_starts_is_heard(session: Attempt, tmp_path: Path) -> None:
    with session:
        (tmp_path / "stop").touch()
        until = time.monotonic() + 60.0
        while not session.stop and time.monotonic() < until:
            time.sleep(0.01)
        assert session.stop
