"""A command whose output is a terminal: a pseudo-terminal that the test reads."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence


def run_on_terminal(command: Sequence[str], environment: dict[str, str], stdout: int | None = None) -> tuple[int, str]:
    """Runs a command with extra environment variables; returns its exit code and all that it wrote to the terminal.

    Both stdout and stderr are the terminal, or stderr alone where `stdout` is another file, as for subprocess.
    """
    ours, theirs = pty.openpty()
    present = {**os.environ, **environment, "TERM": "xterm-256color"}
    out = theirs if stdout is None else stdout
    with subprocess.Popen(command, env=present, stdout=out, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 65536):
                text += part
        except OSError:  # the command has closed its end
            pass
    os.close(ours)
    return process.returncode, text.decode()
