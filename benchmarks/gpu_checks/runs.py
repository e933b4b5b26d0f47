"""`kws` commands in processes of their own, as a user types them, and what their run folders contain."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import ROOT, Context
from kws.run.checkpoint import Checkpoints

ALONE = (sys.executable, "-m", "kws")
TINY: Mapping[str, object] = {
    "model.name": "tc_resnet8", "frontend.features": "mel32", "frontend.augment": "classic",
    "data.workers": 0, "data.ledger": "true", "train.epochs": 3, "train.global_batch": 64, "train.micro_batch": 16,
    "train.lr": 0.01, "train.warmup_epochs": 0.5, "train.log_steps": 1, "train.threads": 1,
}  # fmt: skip
"""A training that takes seconds, in four slots a step."""
FULL_FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Environment without TF32, for runs that add in another order: TF32 makes 5e-4 of a difference of 1e-7 (measured on
an H200: losses to 1.4e-3 after 12 steps)."""


def accelerate(file: str, *words: object) -> tuple[str, ...]:
    """accelerate launch with a file of launch/."""
    start = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "launch" / file))
    return (*start, *map(str, words), "-m", "kws")


def torchrun(ranks: int) -> tuple[str, ...]:
    """torchrun on this machine."""
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    return (*start, "-m", "--", "kws")


@dataclasses.dataclass(frozen=True)
class Ended:
    """A command that ended: exit code, output, seconds."""

    code: int
    output: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What kws itself printed as errors."""
        return [line for line in self.output.splitlines() if line.startswith("kws: ")]


class Command:
    """A command in a process of its own; its output goes to a file and, at the end, into the check's own."""

    def __init__(self, words: Sequence[object], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log, self._began = log, time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*map(str, words)], stdout=file, stderr=subprocess.STDOUT, env=os.environ | dict(env or {})
            )

    def output(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    def finish(self, limit_s: float = 300.0) -> Ended:
        """Waits for its end; kills it, with what it started, after limit_s."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(limit_s)
        self.kill()
        ended = Ended(self.process.returncode, self.output(), time.monotonic() - self._began)
        print(f"--- {self._log.name}: exit code {ended.code} after {ended.seconds:.1f} s\n{ended.output}", flush=True)
        return ended

    def kill(self) -> None:
        """SIGKILL to the process and to what it started."""
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for member in [*top.children(recursive=True), top]:
                with suppress(psutil.NoSuchProcess):
                    member.kill()
        self.process.wait()

    def wait_until(self, condition: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Waits for a condition while the command runs. Raises RuntimeError where it ends or takes too long."""
        until = time.monotonic() + limit_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{self._log.name}: ended or too slow: {self.finish(0.0).output[-300:]}")
            time.sleep(0.02)


class Run:
    """One run folder and the settings of its training, on the context's device."""

    def __init__(self, context: Context, name: str, **settings: object) -> None:
        """settings: beside TINY, with __ for the dot."""
        self.folder, self._context = context.out / "runs" / name, context
        own = {key.replace("__", "."): value for key, value in settings.items()}
        shards = {"data.shards": corpora.tones(context)} if "data.shards" not in own else {}
        self.settings: dict[str, object] = {**TINY, "train.device": context.device, **shards, **own}
        self._starts = 0

    def start(self, launcher: Sequence[str] = ALONE, env: Mapping[str, str] | None = None) -> Command:
        """Starts or resumes the training."""
        config = self.folder.with_suffix(".toml")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("")
        self._starts += 1
        words = [word for key, value in self.settings.items() for word in ("--set", f"{key}={value}")]
        log = self.folder.parent / f"{self.folder.name}-{self._starts}.log"
        return Command([*launcher, "train", config, "--run", self.folder, *words], log, env)

    def train(self, launcher: Sequence[str] = ALONE, env: Mapping[str, str] | None = None) -> Ended:
        """Trains to the end. Raises RuntimeError where that fails."""
        return succeeded(self.start(launcher, env).finish(self._context.seconds_left))

    def command(self, name: str, *words: object) -> Ended:
        """Another kws command, such as evaluate. Raises RuntimeError where it fails."""
        log = self.folder.parent / f"{self.folder.name}-{name}.log"
        return succeeded(Command([*ALONE, name, *words], log).finish(self._context.seconds_left))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind in metrics.jsonl; of a step that was trained again, the later one."""
        path = self.folder / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return list({(row["step"], row.get("epoch")): row for row in rows if row["event"] == kind}.values())

    def losses(self) -> list[float]:
        """The loss of each step."""
        return [row["loss"] for row in sorted(self.events("step"), key=lambda row: int(row["step"]))]

    def steps_done(self) -> int:
        """Number of step events so far."""
        path = self.folder / "metrics.jsonl"
        return path.read_text().count('"event": "step"') if path.exists() else 0

    def saved_step(self) -> int:
        """Step of the newest whole checkpoint; 0 where there is none."""
        found = (self.folder / "checkpoints").glob("step-*")
        return max((int(path.name.split("-")[1]) for path in found), default=0)

    def status(self) -> dict[str, Any]:
        """status.json."""
        return dict(json.loads((self.folder / "status.json").read_text()))


def succeeded(ended: Ended) -> Ended:
    """Returns it, or raises RuntimeError with its last line."""
    if ended.code:
        lines = ended.lines or ended.output.splitlines() or ["no output"]
        raise RuntimeError(f"exit code {ended.code}: {lines[-1]}")
    return ended


def stop(command: Command, number: signal.Signals) -> Ended:
    """Sends a signal and waits for the end."""
    command.process.send_signal(number)
    return command.finish(60.0)


def unequal(one: Run, other: Run) -> list[str]:
    """Names of the tensors of the last checkpoints whose bits differ: weights, averages and the optimizer's state."""
    a, b = _final_state(one), _final_state(other)
    return [key for key in a.keys() | b.keys() if key not in a or key not in b or not torch.equal(a[key], b[key])]


def _final_state(run: Run) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoints(run.folder).find("last")
    sharded = checkpoint.optimizer_shards.is_dir()
    states = {} if sharded else checkpoint.optimizer()["optimizer"]["state"]
    moments = {f"{number}.{key}": value for number, part in states.items() for key, value in part.items()}
    averaged = {f"ema.{name}": value for name, value in (checkpoint.ema() or {}).items()}
    tensors = {key: value for key, value in moments.items() if isinstance(value, torch.Tensor)}
    return {**checkpoint.model(), **averaged, **tensors}
