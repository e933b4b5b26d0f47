"""Kills runs at random moments in many ways; they must resume and end with the bits of an uninterrupted run.

    python benchmarks/torture.py [--quick] [--kills N] [--seed S] [--data DIR]

First part (reduction = "fast", 12 slots): with 2, 3 and 4 processes, one run is not disturbed, and the same run is
killed and resumed N / 3 times: all processes or one of them (SIGKILL); while a checkpoint is written; during an
evaluation; before training begins; with SIGTERM; with a full disk (a small tmpfs, as root); with its newest checkpoint
damaged after a kill (a changed byte, or a truncated file). Second part (reduction = "exact", 8 slots): the number of
processes changes at every resume: 1, 2, 4, 2, ...

At the end, weights, optimizer state and running statistics must have the bits of the undisturbed run, and the ledger
must match the plan: no draw lost, none consumed twice. Exit code 1 otherwise.

Without --data the clips are tones. --quick kills 4 times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table

from kws.audio import codec
from kws.data import index
from kws.data.training_set import TrainingSet
from kws.evaluation.ledger_audit import verify_run
from kws.packing import pack
from kws.run.checkpoint import Checkpoints
from kws.run.folder import read_config

SETTINGS = """
[model]
name = "tc_resnet8"
[frontend]
features = "mel32"
augment = "classic"
mixup_probability = 0.3
[data]
shards = {shards}
workers = 1
ledger = true
epoch_clips = 240
[train]
epochs = {epochs}
global_batch = {batch}
micro_batch = 2
device = "cpu"
threads = 1
ema = 0.9
save_minutes = 0
log_steps = 1
reduction = "{reduction}"
"""
KINDS = ("all", "one", "saving", "evaluating", "starting", "stop", "flip", "cut", "full")
console = Console(stderr=True)


# --- a run and its end ----------------------------------------------------------------------------------------


class Run:
    """One run folder, whose run is started by torchrun."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config, self.folder = config, folder

    def start(self, ranks: int) -> subprocess.Popen[bytes]:
        """Starts the run in its own process group."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [*launcher, "-m", "--", "kws", "train", str(self.config), "--run", str(self.folder)]
        log = self.folder.with_suffix(".log").open("ab")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def finish(self, ranks: int) -> None:
        """Runs to the end, resuming where it stops."""
        code = self.start(ranks).wait()
        if code or self.status().get("state") != "finished":
            raise SystemExit(
                f"{self.folder}: ended with {code}, {self.status()}; see {self.folder.with_suffix('.log')}"
            )

    def status(self) -> dict[str, object]:
        """The content of status.json."""
        with suppress(OSError, ValueError):
            found: dict[str, object] = json.loads((self.folder / "status.json").read_text())
            return found
        return {}

    def saved(self) -> int:
        """The step of the newest checkpoint; 0 without one."""
        return max((int(path.name.split("-")[1]) for path in self.checkpoints()), default=0)

    def checkpoints(self) -> list[Path]:
        """Folders of complete checkpoints and of those being written."""
        return sorted((self.folder / "checkpoints").glob("step-*"))

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.folder / "checkpoints").glob(".step-*.partial"))

    def evaluating(self, steps: int) -> bool:
        """Whether an epoch of `steps` steps has ended and is not evaluated yet."""
        names = {path.name for path in self.checkpoints()}
        done = self.saved()
        return done > 0 and done % steps == 0 and f"step-{done:08d}-evaluated" not in names


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The launcher and the ranks."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    return []


def ranks_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The children of the launcher that run kws."""
    with suppress(psutil.NoSuchProcess):
        return [child for child in psutil.Process(process.pid).children() if "kws" in " ".join(child.cmdline())]
    return []


def kill(members: list[psutil.Process]) -> None:
    """Sends SIGKILL."""
    for member in members:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> bool:
    """Waits for a condition; returns whether it was met before the process ended."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        if what():
            return True
        time.sleep(0.002)
    return False


def disturb(run: Run, ranks: int, kind: str, rng: random.Random, steps: int) -> str:
    """Starts the run and ends it in this way; returns how it ended: "finished" where the run was faster."""
    before = run.saved()
    process = run.start(ranks)
    if kind == "starting":
        wait_for(lambda: len(ranks_of(process)) == ranks, process)
        time.sleep(rng.uniform(0.0, 6.0))
    else:
        wait_for(lambda: run.saved() >= before + rng.randint(1, 6), process)
    if kind == "saving":
        wait_for(run.saving, process, 20.0)
    elif kind == "evaluating":
        wait_for(lambda: run.evaluating(steps), process, 60.0)
    if process.poll() is not None:
        return "finished"
    if kind == "stop":
        for rank in ranks_of(process):
            with suppress(psutil.NoSuchProcess):
                rank.send_signal(signal.SIGTERM)
    elif kind == "one":
        kill([rng.choice(found)] if (found := ranks_of(process)) else [])
    elif kind == "full":
        fill(run.folder)
    else:
        kill(family(process))
    end(process)
    empty(run.folder)
    if kind in ("flip", "cut"):
        damage(run, kind, rng)
    return kind


def end(process: subprocess.Popen[bytes]) -> None:
    """Waits for a process that should end by itself; reports where it does not."""
    members = family(process)
    try:
        process.wait(timeout=90)
    except subprocess.TimeoutExpired:
        console.print("[red]did not end within 90 s: killed")
    _, left = psutil.wait_procs(members, timeout=10)
    kill(left)
    process.wait()


def fill(folder: Path) -> None:
    """Fills the disk of the run completely."""
    with suppress(OSError), (folder / "filler").open("wb") as file:
        while True:
            file.write(bytes(1 << 16))


def empty(folder: Path) -> None:
    """Removes what `fill` wrote."""
    (folder / "filler").unlink(missing_ok=True)


def damage(run: Run, kind: str, rng: random.Random) -> None:
    """Damages a file of the newest checkpoint."""
    if not run.checkpoints():
        return
    path = rng.choice([file for file in run.checkpoints()[-1].iterdir() if file.stat().st_size])
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.unlink()  # -evaluated shares its files with the one before: that one must stay whole
    path.write_bytes(data if kind == "flip" else data[:place])


# --- judging --------------------------------------------------------------------------------------------------


def same_bits(one: Run, other: Run) -> bool:
    """Whether weights, running statistics, averaged weights and optimizer state are equal."""
    states = []
    for run in (one, other):
        checkpoint = Checkpoints(run.folder).find("last")
        optimizer = checkpoint.optimizer()["optimizer"]["state"]
        moments = {f"{number}.{key}": value for number, part in optimizer.items() for key, value in part.items()}
        averaged = {f"ema.{key}": value for key, value in (checkpoint.ema() or {}).items()}
        states.append({**checkpoint.model(), **averaged, **moments})
    return states[0].keys() == states[1].keys() and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][key])) for key, value in states[0].items()
    )


def count(run: Run) -> tuple[int, int]:
    """Number of draws lost, and of draws consumed twice, by the ledger."""
    verdict, config = verify_run(run.folder), read_config(run.folder)
    planned = sum(TrainingSet(config).plan(epoch).clips for epoch in range(config.train.epochs))
    for fault in verdict.faults:
        console.print(f"[red]{fault}")
    return max(0, planned - verdict.consumed), max(0, verdict.consumed - planned) + len(verdict.faults)


@contextmanager
def disk(folder: Path) -> Iterator[bool]:
    """A small file system at `folder`, where this process may mount one."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def clips(folder: Path) -> index.Index:
    """A small corpus of tones."""
    rng = np.random.default_rng(0)
    for number in range(240):
        word = ("low", "mid", "high")[number % 3]
        time_s = np.arange(16000) / 16000
        wave = 0.3 * np.sin(2 * np.pi * 200 * (number % 3 + 1) * time_s) + 0.01 * rng.standard_normal(16000)
        path = folder / "wav" / word / f"{number % 30:08x}_nohash_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes((wave * 32767).astype(np.int16)))
    return pack.pack([folder / "wav"], folder / "shards", pack.PackOptions(shard_bytes=1_000_000))[0]


def torture(root: Path, shards: Path, kills: int, seed: int, epochs: int) -> dict[str, object]:
    """Runs both parts; returns their results."""
    rng, done = random.Random(seed), Counter[str]()
    lost = doubled = 0
    equal = []
    forms = [("fast", 24, (ranks,), max(1, kills // 4)) for ranks in (2, 3, 4)]
    forms.append(("exact", 16, (1, 2, 4, 2), max(1, kills - 3 * max(1, kills // 4))))
    for name, batch, worlds, share in forms:
        config = root / f"{name}.toml"
        config.write_text(
            SETTINGS.format(shards=json.dumps(str(shards)), epochs=epochs, batch=batch, reduction=name),
            encoding="utf-8",
        )
        whole = Run(config, root / f"{name}-{worlds[0]}-whole")
        whole.finish(worlds[0])
        steps = TrainingSet(read_config(whole.folder)).steps_per_epoch
        with disk(root / f"disk-{name}-{worlds[0]}") as small:
            broken = Run(config, root / f"disk-{name}-{worlds[0]}" / "run")
            kinds = [kind for kind in KINDS if small or kind != "full"]
            for number in range(share):
                kind = disturb(broken, worlds[number % len(worlds)], kinds[sum(done.values()) % len(kinds)], rng, steps)
                done[kind] += 1
                console.print(f"{name}, {worlds[number % len(worlds)]} processes: {kind}, at step {broken.saved()}")
            broken.finish(worlds[share % len(worlds)])
            equal.append(same_bits(whole, broken))
            losses = count(broken)
            lost, doubled = lost + losses[0], doubled + losses[1]
            console.print(
                f"{name}, {worlds}: {'equal' if equal[-1] else '[red]NOT equal'}, lost and consumed twice {losses}"
            )
    return {"kills": sum(done.values()), "kinds": done, "lost": lost, "doubled": doubled, "weights_equal": all(equal)}


def main() -> int:
    """Prints a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: tones")
    parser.add_argument("--quick", action="store_true", help="4 kills")
    parser.add_argument("--kills", type=int, help="number of kills (default 32)")
    parser.add_argument("--seed", type=int, default=0, help="random seed for the moments and places")
    parser.add_argument("--keep", type=Path, help="new folder for the runs, kept (default: a temporary one)")
    arguments = parser.parse_args()
    kills = arguments.kills or (4 if arguments.quick else 32)
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="kws-torture-"))
    root.mkdir(exist_ok=True)
    try:
        shards = arguments.data or clips(root).root
        found = torture(root, shards.resolve(), kills, arguments.seed, 3 if arguments.quick else 6)
    finally:
        if not arguments.keep:
            shutil.rmtree(root, ignore_errors=True)
    table = Table("how it ended", "times", title=f"{found['kills']} attempts ended")
    for kind, times in Counter(found["kinds"]).items():  # type: ignore[call-overload]
        table.add_row(kind, str(times))
    table.caption = f"lost {found['lost']}, consumed twice {found['doubled']}, weights equal: {found['weights_equal']}"
    Console().print(table)
    print(json.dumps(found))
    return 0 if found["weights_equal"] and not found["lost"] and not found["doubled"] else 1


if __name__ == "__main__":
    sys.exit(main())
