"""A training, or one per architecture, to SLURM's queue: looked at before it waits there, and frozen.

    CONFIG... + shape -> checked -> copies in RUN/slurm/ -> sbatch -> the job's number, and how to follow it

A job that waits for hours, or comes back after days, reads its config then. It reads the copy, so that the file may be
edited for the next run meanwhile; else the edited one would be refused as another run's.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kws import config as settings_file
from kws.data import index
from kws.errors import UsageError
from kws.run import folder as run_folder
from kws.run import lock

SCRIPTS = Path("slurm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What is wanted. `gpus`: a node, a process each; 0: `tasks` processes a node, on the CPU."""

    configs: Sequence[Path]
    run: Path | None = None
    """Of one config its run folder, of several the folder of their run folders."""
    changes: Sequence[str] = ()
    """As kws train has them after --set."""
    nodes: int = 1
    gpus: int = 0
    tasks: int = 1
    time: str = ""
    options: Sequence[str] = ()
    """More words for sbatch."""

    @property
    def many(self) -> bool:
        """Whether it is an array of jobs."""
        return len(self.configs) > 1

    @property
    def folder(self) -> Path:
        """The run folder, or that of an array's run folders."""
        if self.run:
            return self.run
        if self.many:
            raise UsageError("--run: wanted, the folder for the runs of several configs")
        return Path(os.environ.get("KWS_RUNS", "runs")) / self.configs[0].stem

    def run_of(self, config: Path) -> Path:
        """The run folder of one of the configs."""
        return self.folder / config.stem if self.many else self.folder


@dataclasses.dataclass(frozen=True)
class Submission:
    """What is given to sbatch. `after`: it starts when the job submitted before it has ended."""

    words: list[str]
    after: bool = False

    def command(self, number: str = "NUMBER") -> list[str]:
        """The words, `number` being that of the job before."""
        dependency = [f"--dependency=afterany:{number}"] if self.after else []
        return ["sbatch", "--parsable", *dependency, *self.words]


def launch(order: Order, dry: bool) -> list[str]:
    """Checks and submits it, or with `dry` does the first alone. What to say, line by line.

    Raises UsageError for what would end the job after it has waited, and where sbatch refuses it.
    """
    _check(order)
    jobs = _jobs(order)
    if dry:
        return [shlex.join(job.command()) for job in jobs]
    _keep_copies(order)
    lines, number = [], ""
    for job in jobs:
        command = job.command(number)
        number = _submit(command)
        lines += [shlex.join(command), f"job {number}"]
    return lines + _follow(order, lines[1].removeprefix("job "))


def _check(order: Order) -> None:
    if not (SCRIPTS / "train.sbatch").is_file():
        raise UsageError(f"{Path.cwd()}: no slurm/train.sbatch here; go to the project's folder first")
    if len({config.stem for config in order.configs}) < len(order.configs):
        raise UsageError("two configs of the same name would share a run folder; rename one")
    processes = order.nodes * (order.gpus or order.tasks)
    for config in order.configs:
        settings = settings_file.load(config, [f"train.processes={processes}", *order.changes])
        index.load(Path(settings.data.shards))
        run = order.run_of(config)
        lock.refuse_if_in_use(run)
        if any((run / "checkpoints").glob("step-*")):
            changed = settings_file.differences(run_folder.read_config(run), settings)
            if changed:
                raise UsageError(f"{run}: made with other settings ({'; '.join(changed)}); use --run ANOTHER_FOLDER")


def _jobs(order: Order) -> list[Submission]:
    copies, overrides = order.folder / "slurm", [word for change in order.changes for word in ("--set", change)]
    shape = [f"--nodes={order.nodes}", f"--ntasks-per-node={order.gpus or order.tasks}"]
    shape += [f"--gpus-per-node={order.gpus}"] if order.gpus else []
    shape += [f"--time={order.time}"] if order.time else []
    configs = [str(copies / config.name) for config in order.configs]
    if not order.many:
        name = [f"--job-name={order.configs[0].stem}", f"--output={copies}/%j.log"]
        words = [*name, *shape, *order.options, str(copies / "train.sbatch"), *configs, "--run", str(order.folder)]
        return [Submission([*words, *overrides])]
    array = [f"--array=0-{len(configs) - 1}", f"--output={copies}/%A_%a.log"]
    words = [*array, *shape, *order.options, str(copies / "array.sbatch"), str(order.folder), *configs, *overrides]
    compare = [f"--output={copies}/%j.log", *order.options, str(SCRIPTS / "compare.sbatch"), str(order.folder)]
    return [Submission(words), Submission(compare, after=True)]


def _keep_copies(order: Order) -> None:
    copies = order.folder / "slurm"
    script = SCRIPTS / ("array.sbatch" if order.many else "train.sbatch")
    try:
        copies.mkdir(parents=True, exist_ok=True)
        for path in (script, *order.configs):
            if path.resolve() != (copies / path.name).resolve():
                shutil.copyfile(path, copies / path.name)
    except OSError as error:
        raise UsageError(f"{copies}: cannot be written ({error.strerror}); use --run ANOTHER_FOLDER") from error


def _submit(command: Sequence[str]) -> str:
    """The job's number."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("sbatch: not found; type this on a cluster's login node (or add --dry-run)") from None
    if done.returncode:
        raise UsageError(f"sbatch: {done.stderr.strip()}; the command was: {shlex.join(command)}")
    return done.stdout.strip().partition(";")[0]  # with several clusters NUMBER;CLUSTER


def _follow(order: Order, number: str) -> list[str]:
    log = order.folder / "slurm" / (f"{number}_0.log" if order.many else f"{number}.log")
    first = order.run_of(order.configs[0])
    return [
        f"queue    squeue -j {number}",
        f"log      tail -F {log}",
        f"restart  touch {first}/stop    (saves, and goes back into the queue)",
        f"cancel   scancel {number}    (saves; the same kws launch goes on from there)",
    ]
