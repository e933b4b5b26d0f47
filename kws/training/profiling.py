"""train.profile: records some steps of a run with torch.profiler, and writes a trace and a table for each rank.

RUN/profile/steps-100-110.rank0.json.gz       trace for https://ui.perfetto.dev or chrome://tracing
            steps-100-110.rank0.summary.json  figures (kws/training/trace_summary.py), rank, host, device
            steps-100-110.rank0.txt           the same as tables
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kws import files
from kws.distributed.ranks import Ranks
from kws.training.forward import Progress
from kws.training.step_times import StepTimes
from kws.training.trace_summary import summarise_trace, summary_text

MOST_RANKS = 16
"""Ranks that write a trace; of more, the first so many."""


def profile_note(wanted: tuple[int, int] | None, step: int, total_steps: int) -> str:
    """A line for the user where a run that starts at `step` profiles fewer steps than wanted; else ""."""
    if wanted is None or (wanted[0] >= step and wanted[1] <= total_steps):
        return ""
    first, end = max(wanted[0], step), min(wanted[1], total_steps)
    asked = f"note: train.profile={wanted[0]}:{wanted[1]}, but the run "
    asked += f"starts at step {step}" if wanted[0] < step else f"ends after step {total_steps - 1}"
    return f"{asked}: " + (f"steps {first} to {end - 1} are profiled" if first < end else "nothing is profiled")


@dataclasses.dataclass
class StepProfile:
    """Profiles the steps first, ..., end - 1 of `wanted`, as far as an attempt that begins at
    `first_step` comes to them."""

    wanted: tuple[int, int] | None
    first_step: int
    folder: Path
    ranks: Ranks
    times: StepTimes
    progress: Progress

    def __post_init__(self) -> None:
        self._profiler: torch.profiler.profile | None = None
        self._first = self._last = 0
        if self.ranks.rank >= MOST_RANKS or (self.wanted and self.wanted[1] <= self.first_step):
            self.wanted = None
        if self.wanted:
            # The first start takes seconds: imports, and a GPU's tracing. They belong to no step.
            with self.progress.no_time_limit("preparing the profile"), self._new_profiler():
                pass

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step: records it if it is wanted, and writes the files after the last one."""
        if self.wanted is None or not self.wanted[0] <= number < self.wanted[1]:
            yield
            return
        if self._profiler is None:
            self._start(number)
        with torch.profiler.record_function(f"step {number}"):
            yield
        self._last = number
        if number + 1 == self.wanted[1]:
            self.close()

    def _new_profiler(self) -> torch.profiler.profile:
        # Kineto prints its begin and end to stderr; it reads this when the first profile starts.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.ranks.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        return torch.profiler.profile(activities=activities)

    def _start(self, number: int) -> None:
        self._profiler, self._first, self._last = self._new_profiler(), number, number - 1
        self._profiler.start()
        self.times.profiling = True

    def close(self) -> None:
        """Writes what was recorded and not written yet: also where the run stops or fails before the last step."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        self.times.profiling = False
        with self.times.part("save"), self.progress.no_time_limit("writing the profile"):
            profiler.stop()
            if self._last >= self._first:
                self._write(profiler)

    def _write(self, profiler: torch.profiler.profile) -> None:
        stem = f"steps-{self._first}-{self._last + 1}.rank{self.ranks.rank}"
        trace = self.folder / f"{stem}.json.gz"
        try:
            self.folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(trace))
            facts = {"rank": self.ranks.rank, "host": socket.gethostname(), "device": str(self.ranks.device)}
            summary = summarise_trace(_events(trace))
            files.write_json(self.folder / f"{stem}.summary.json", facts | summary)
            where = "rank {rank} on {host}, {device}".format(**facts)
            files.write_text(self.folder / f"{stem}.txt", summary_text(summary, where))
        except OSError as error:
            print(f"rank {self.ranks.rank}: train.profile: {trace}: {error}; training continues", file=sys.stderr)


def _events(trace: Path) -> list[dict[str, Any]]:
    with gzip.open(trace, "rt", encoding="utf-8") as file:
        found: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return found
