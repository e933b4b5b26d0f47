"""`kws` on a device with little memory left. Only for check 9."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from kws.cli import main

GPU_FRACTION, CPU_BYTES = 0.02, 2_500_000_000


def limit_memory() -> None:
    """Of a GPU this process may use GPU_FRACTION; without one, CPU_BYTES of memory more than it has now."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(GPU_FRACTION)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + CPU_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    limit_memory()
    sys.exit(main())
