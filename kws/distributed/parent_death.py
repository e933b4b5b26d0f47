"""What a process must know of its launcher before it imports torch, which takes seconds in which that may be killed."""

from __future__ import annotations

import ctypes
import os
import signal


def end_with_launcher() -> None:
    """Under torchrun and accelerate: SIGTERM when the launcher is gone, however it went. Ranks that nobody knows of any
    more would go on in the run's folder beside those of the next start. From a shell there is none, so nohup works."""
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        end_with_parent(signal.SIGTERM)


def end_with_parent(number: signal.Signals) -> None:
    """This process gets the signal when the one that started it is gone."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
