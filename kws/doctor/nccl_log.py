"""Which network NCCL uses, from its own log: whether InfiniBand, or sockets although InfiniBand is there."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

_NETWORK = re.compile(r"NCCL INFO Using network (.+)")


def write_log(environ: MutableMapping[str, str] = os.environ) -> Path | None:
    """Lets NCCL write its log to a file of its own; before its first call. None where the user has it elsewhere."""
    if "NCCL_DEBUG" in environ or "NCCL_DEBUG_FILE" in environ:
        return None
    handle, name = tempfile.mkstemp(prefix="kws-nccl-")
    os.close(handle)
    environ.update({"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": name})
    return Path(name)


def network(log: Path | None) -> str:
    """IB, Socket, or the name of a plugin; "" where the log does not contain it. Removes the log."""
    if log is None:
        return ""
    text = ""
    with contextlib.suppress(OSError):
        text = log.read_text(errors="replace")
        log.unlink()
    found = _NETWORK.findall(text)
    return found[-1].strip() if found else ""
