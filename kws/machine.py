"""What this machine offers the process: usable cores, the processor's name, and how freed memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def cpu_name() -> str:
    """Model name of the processor, or "unknown"."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def keep_freed_memory() -> None:
    """Tells glibc to keep memory that a step frees for the next step.

    By default every tensor over 32 MB (at first 128 KB) comes fresh from the kernel and is zeroed page by page.
    Measured: converting int16 to float took 52 us a clip with the default and 4 us with this setting.
    """
    mmap_threshold, top_pad, trim_threshold = -3, -2, -1
    with contextlib.suppress(OSError, AttributeError):  # another libc
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        if not mallopt(mmap_threshold, 2**30):
            mallopt(mmap_threshold, 2**25)  # the maximum that older glibc accepts
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**26)
