"""How many cores a scorer of one stream uses: one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread on a CPU; afterwards with as many as before.

    The batches of a stream are so small that more threads wait for each other longer than they compute, and would
    keep other streams, or the machine's owner, from the cores.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
