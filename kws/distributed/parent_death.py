"""Ends a process when the process that started it ends. Free of torch, whose import takes seconds in which the parent
may already be killed."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_launcher() -> None:
    """Under torchrun and accelerate launch: this process gets SIGTERM when the launcher ends, for whatever reason.

    Ranks without a launcher would keep writing to the run folder beside those of the next attempt. A process started
    from a shell has no launcher, so nohup works.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        end_with_parent(signal.SIGTERM)


def end_with_parent(number: signal.Signals) -> None:
    """This process gets signal `number` when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
