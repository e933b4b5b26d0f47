"""Runs the checks: each in a process of its own, correctness four at a time, speed alone, all within the budget.

gpu.py -> Runner -> gpu.py --check N (run_here), its output in OUT/N.txt -> its last line is the row -> OUT/rows.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_checks.check import ROOT, Check, Context, Finding, Skip, last_line, row_of

AT_ONCE = 4
LEAST_S = 8.0
"""A check is not started with less time than this."""
CPU_LIMIT_S = 400.0
"""The limit of every check on a CPU: two cores, perhaps busy."""
Row = dict[str, Any]


def context_of(arguments: argparse.Namespace, seconds: float) -> Context:
    """What a check gets that may run for so long."""
    return Context(
        device=arguments.device, quick=arguments.quick, out=arguments.out, data=arguments.data,
        deadline=time.monotonic() + seconds,
    )  # fmt: skip


def run_here(check: Check, context: Context) -> Row:
    """Runs one check in this process and returns its row."""
    began, skipped, finding = time.monotonic(), "", Finding()
    module, function = check.function.split(":")
    try:
        finding = getattr(importlib.import_module(f"benchmarks.gpu_checks.{module}"), function)(context)
    except Skip as skip:
        skipped = str(skip)
    except Exception as error:  # noqa: BLE001  # any failure is a result here
        traceback.print_exc()
        finding.faults.append(f"{type(error).__name__}: {last_line(str(error))}")
    good = "passed" if context.on_gpu else "self-test"
    verdict = "skipped" if skipped else "failed" if finding.faults else good
    found = skipped or "; ".join([*finding.faults, *finding.parts])
    figures = {**finding.figures, "processor_s": round(_processor_seconds(), 1)}
    return row_of(check, verdict, found, time.monotonic() - began, figures)


def _processor_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@dataclasses.dataclass
class _Running:
    check: Check
    process: subprocess.Popen[bytes]
    began: float
    limit_s: float


class Runner:
    """Runs checks and reports each as it ends."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments, self._out = arguments, Path(arguments.out)
        self._deadline = time.monotonic() + arguments.budget
        self._running: list[_Running] = []
        self._table = _GrowingTable()
        self.rows: list[Row] = []

    def run(self, checks: Sequence[Check]) -> list[Row]:
        """Runs the checks, the first one, which makes the corpora, before all others. Returns the rows by number."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the checks are ended below
        try:
            self._run_all(checks[:1])
            # Long ones first, so that none is left over at the end; then, one by one, those that measure speed.
            self._run_all(sorted(checks[1:], key=lambda check: (check.alone, -check.limit_s * (not check.alone))))
        finally:
            for running in self._running:
                _kill(running.process)
        return sorted(self.rows, key=lambda row: int(row["number"]))

    def _run_all(self, checks: Sequence[Check]) -> None:
        waiting = list(checks)
        while waiting or self._running:
            while waiting and self._may_start(waiting[0]):
                self._start(waiting.pop(0))
            for running in list(self._running):
                self._look_at(running)
            time.sleep(0.05)

    def _may_start(self, check: Check) -> bool:
        if check.alone or any(running.check.alone for running in self._running):
            return not self._running
        return len(self._running) < AT_ONCE

    def _start(self, check: Check) -> None:
        left = self._deadline - time.monotonic()
        if left < LEAST_S:
            self._report(row_of(check, "skipped", "no time left (--budget)", 0.0, {}))
            return
        limit_s = min(check.limit_s if self._arguments.device == "cuda" else CPU_LIMIT_S, left)
        with self._output(check).open("wb") as file:
            process = subprocess.Popen(
                self._command(check, limit_s), stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._running.append(_Running(check, process, time.monotonic(), limit_s))

    def _command(self, check: Check, limit_s: float) -> list[str]:
        given = self._arguments
        words = ["--check", check.number, "--device", given.device, "--out", given.out, "--budget", limit_s]
        words += ["--quick"] if given.quick else []
        words += ["--data", given.data] if given.data else []
        return [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *map(str, words)]

    def _output(self, check: Check) -> Path:
        return self._out / f"{check.number}.txt"

    def _look_at(self, running: _Running) -> None:
        """Reports a check that ended, and ends one that is over its limit."""
        seconds, output = time.monotonic() - running.began, self._output(running.check)
        ended = running.process.poll() is not None
        if not ended and seconds < running.limit_s:
            return
        _kill(running.process)
        self._running.remove(running)
        text = output.read_text(errors="replace")
        row = _row_in(text)  # also of a process that hangs at its exit
        if row is None:
            how = f"exit code {running.process.returncode}" if ended else f"not done after {running.limit_s:.0f} s"
            found = f"{how}; last output: {last_line(text)[-200:]}; see {output}"
            row = row_of(running.check, "failed", found, seconds, {})
        self._report(row)

    def _report(self, row: Row) -> None:
        self.rows.append(row)
        with (self._out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._table.add(row)


def _row_in(text: str) -> Row | None:
    """The row that a check prints as its last line; None where its process ended before."""
    with suppress(ValueError):
        row = json.loads(last_line(text))
        if isinstance(row, dict) and "verdict" in row:
            return row
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a check and what it started; torchrun's ranks are in sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        for member in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()


_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow", "self-test": "cyan"}


class _GrowingTable:
    """A table that is printed row by row, the same in a terminal and in a log file."""

    def __init__(self) -> None:
        console = Console()
        self._console = console if console.is_terminal else Console(width=150)
        self._print("#", "check", "expected", "found", "verdict", "s")

    def add(self, row: Row) -> None:
        """Prints the row."""
        verdict = f"[{_COLOURS[row['verdict']]}]{row['verdict']}[/]"
        found = str(row["found"]).replace("[", "\\[")
        self._print(str(row["number"]), row["name"], row["expected"], found, verdict, f"{row['seconds']:.0f}")

    def _print(self, *cells: str) -> None:
        table = Table(show_header=False, box=None, padding=(0, 1), width=self._console.width)
        for width, justify in ((2, "right"), (26, "left"), (28, "left"), (0, "left"), (9, "left"), (4, "right")):
            table.add_column(width=width or None, ratio=None if width else 1, justify=justify, overflow="fold")  # type: ignore[arg-type]
        table.add_row(*cells)
        self._console.print(table)
