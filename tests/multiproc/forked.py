"""Processes that run a kws command and start in a tenth of the time: forked from a server that has imported torch.

Each is a process of its own, as under srun: own process id, own session, real signals. Only the imports are shared,
which cost 5 s of a core for every start of `python -m kws train`.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([
    "torch", "torch._dynamo", "torch.utils.tensorboard", "kws.audio.kernels", "kws.commands.runs",
    "kws.training.trainer", "tests.multiproc.forked", "tests.multiproc.loaded_kernels",
])  # fmt: skip


class ForkedProcess:
    """A kws command with extra environment variables; it has the methods of subprocess.Popen that the tests use."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        handle, name = tempfile.mkstemp(suffix=".out")
        os.close(handle)
        self._output = Path(name)
        present = dict(os.environ) | environment
        self._process = _SERVER.Process(target=_run, args=(list(arguments), present, name, str(Path.cwd())))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Nothing happens if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 240.0) -> int:
        """Waits for the end; returns the exit code."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s"
        return self._process.exitcode

    def communicate(self, timeout: float = 240.0) -> tuple[str, None]:
        """Waits for the end; returns what the process wrote to stdout and stderr."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running after {timeout} s: {self._output.read_text()}"
        return self._output.read_text(errors="replace"), None


class ForkedRanks:
    """The ranks of one run, as one process: it ends when all have ended, with the highest exit code."""

    def __init__(self, ranks: Sequence[ForkedProcess]) -> None:
        self.ranks = ranks
        self.pid = ranks[0].pid

    @property
    def returncode(self) -> int | None:
        codes = [rank.returncode for rank in self.ranks]
        ended = [code for code in codes if code is not None]
        return max(ended, key=abs) if len(ended) == len(codes) else None

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        """To every rank."""
        for rank in self.ranks:
            rank.send_signal(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 240.0) -> tuple[str, None]:
        """Waits for all; returns what they wrote, rank after rank."""
        return "".join(rank.communicate(timeout)[0] for rank in self.ranks), None


FRONT_END_DELAY = "TEST_FRONT_END_DELAY_S"
"""Environment variable: seconds by which a process delays the front end of each slot."""


def _delay_front_end(seconds: float) -> None:
    from kws.training.slot_inputs import SlotInputs

    draw = SlotInputs._draw

    def slow_draw(*arguments: Any) -> Any:
        time.sleep(seconds)
        return draw(*arguments)

    SlotInputs._draw = slow_draw  # type: ignore[method-assign]


HOLD_READS = "TEST_HOLD_READS"
"""Environment variable: a file; while it exists, rank 1 reads no clips."""


def _hold_reads(file: Path) -> None:
    from kws.data.reader import Reader

    read_rows = Reader.read_rows

    def held_rows(*arguments: Any) -> Any:
        while file.exists():
            time.sleep(0.05)
        return read_rows(*arguments)

    Reader.read_rows = held_rows  # type: ignore[method-assign]


def _run(arguments: list[str], environment: dict[str, str], output: str, folder: str) -> None:
    from kws import cli

    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(output, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(handle, number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if seconds := environment.get(FRONT_END_DELAY):
        _delay_front_end(float(seconds))
    if environment.get("RANK") == "1" and (file := environment.get(HOLD_READS)):
        _hold_reads(Path(file))
    try:
        code = cli.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(code)
