"""Submits a training to SLURM, or one per config, after checking it and copying its config.

    CONFIG... + resources -> checked -> copied into RUN/slurm/ -> sbatch -> the job's number, and how to follow it

A job reads its config when it starts and when it is requeued, perhaps days later. It reads the copy, so the original
may be edited for the next run; otherwise the job would be refused because its settings had changed. The scripts are
those of slurm/ in the current folder, else those that come with kws; their copies contain where they and this kws are.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from kws import settings_file, shipped_files
from kws.commands.slurm_cores import cores_per_gpu
from kws.data import index
from kws.errors import UsageError, cannot_write, unreadable
from kws.models import names
from kws.run import folder as run_folder
from kws.run import lock

_SCRIPTS = ("train.sbatch", "array.sbatch", "compare.sbatch", "start.sh")
_LAUNCH_FILES = ("cpu2.yaml", "nodes.yaml")
"""The accelerate files that train.sbatch uses with KWS_START=accelerate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Submission:
    """What to train, and the resources of each job."""

    configs: Sequence[Path]
    run: Path | None = None
    """The run folder of a single config; the parent of the run folders of several."""
    changes: Sequence[str] = ()
    """Overrides `a.b=c`, as after --set of kws train."""
    nodes: int = 1
    gpus: int = 0
    """GPUs per node, with one process each; 0: train on the CPU."""
    tasks: int = 1
    """Processes per node without GPUs."""
    time: str = ""
    """Time limit for SLURM; "": the partition's default."""
    options: Sequence[str] = ()
    """Further options for sbatch."""

    @property
    def is_array(self) -> bool:
        """Whether this is an array of jobs, one per config."""
        return len(self.configs) > 1

    @property
    def folder(self) -> Path:
        """The run folder, or the parent of an array's run folders. Raises UsageError for an array without --run."""
        if self.run:
            return self.run
        if self.is_array:
            raise UsageError("--run: several configs need it, as the folder for their run folders")
        return Path(os.environ.get("KWS_RUNS", "runs")) / self.configs[0].stem

    def run_of(self, config: Path) -> Path:
        """The run folder of one of the configs."""
        return self.folder / config.stem if self.is_array else self.folder


@dataclasses.dataclass(frozen=True)
class SbatchJob:
    """The arguments of one sbatch command."""

    arguments: list[str]
    after_previous: bool = False
    """Whether it starts only when the job submitted before it has ended."""

    def command(self, previous: str = "NUMBER") -> list[str]:
        """The whole command; `previous` is the number of the job submitted before."""
        dependency = [f"--dependency=afterany:{previous}"] if self.after_previous else []
        return ["sbatch", "--parsable", *dependency, *self.arguments]


def submit(submission: Submission, dry_run: bool) -> list[str]:
    """Checks the submission and submits it, unless `dry_run`. Returns the lines to print.

    Raises UsageError for mistakes that would otherwise end the job after its wait in the queue, and where sbatch fails.
    """
    _check(submission)
    jobs = _jobs(submission)
    if dry_run:
        return [shlex.join(job.command()) for job in jobs]
    _copy_inputs(submission)
    lines, number = [], ""
    for job in jobs:
        command = job.command(number)
        number = _sbatch(command)
        lines += [shlex.join(command), f"job {number}"]
    return lines + _how_to_follow(submission, lines[1].removeprefix("job "))


def _check(submission: Submission) -> None:
    if len({config.stem for config in submission.configs}) < len(submission.configs):
        raise UsageError("two configs of the same name would use the same run folder; rename one")
    processes = submission.nodes * (submission.gpus or submission.tasks)
    for config in submission.configs:
        by_shape = settings_file.Override(f"train.processes={processes}", "--nodes, --gpus, --tasks")
        settings = settings_file.load(config, [by_shape, *submission.changes])
        names.refuse_unknown(settings.model.name)
        index.load(Path(settings.data.shards))
        run = submission.run_of(config)
        lock.refuse_if_in_use(run)
        if any((run / "checkpoints").glob("step-*")):
            changed = settings_file.differences(run_folder.read_config(run), run_folder.keep_clips(run, settings))
            if changed:
                raise UsageError(f"{run}: made with other settings ({'; '.join(changed)}); use --run ANOTHER_FOLDER")


def _jobs(submission: Submission) -> list[SbatchJob]:
    copies, overrides = (
        submission.folder / "slurm",
        [word for change in submission.changes for word in ("--set", change)],
    )
    shape = [f"--nodes={submission.nodes}", f"--ntasks-per-node={submission.gpus or submission.tasks}"]
    if submission.gpus:
        cores = cores_per_gpu(submission.gpus, submission.options)
        shape += [f"--gpus-per-node={submission.gpus}", *([f"--cpus-per-task={cores}"] if cores else [])]
    shape += [f"--time={submission.time}"] if submission.time else []
    configs = [str(copies / config.name) for config in submission.configs]
    if not submission.is_array:
        name = [f"--job-name={submission.configs[0].stem}", f"--output={copies}/%j.log"]
        words = [
            *name,
            *shape,
            *submission.options,
            str(copies / "train.sbatch"),
            *configs,
            "--run",
            str(submission.folder),
        ]
        return [SbatchJob([*words, *overrides])]
    array = [f"--array=0-{len(configs) - 1}", f"--output={copies}/%A_%a.log"]
    words = [
        *array,
        *shape,
        *submission.options,
        str(copies / "array.sbatch"),
        str(submission.folder),
        *configs,
        *overrides,
    ]
    compare = [
        f"--output={copies}/%j.log",
        *submission.options,
        str(copies / "compare.sbatch"),
        str(submission.folder),
    ]
    return [SbatchJob(words), SbatchJob(compare, after_previous=True)]


def _copy_inputs(submission: Submission) -> None:
    copies = submission.folder / "slurm"
    own, shipped, launch = Path("slurm"), shipped_files.folder("slurm"), shipped_files.folder("launch")
    scripts = [own / name if (own / name).is_file() else shipped / name for name in _SCRIPTS]
    try:
        copies.mkdir(parents=True, exist_ok=True)
        for path in scripts:
            (copies / path.name).write_text(with_places(path.read_text(encoding="utf-8"), copies), encoding="utf-8")
        for path in (*submission.configs, *(launch / name for name in _LAUNCH_FILES)):
            if path.resolve() != (copies / path.name).resolve():
                shutil.copyfile(path, copies / path.name)
    except OSError as error:
        if error.filename in map(str, submission.configs):
            raise unreadable(error) from error
        raise UsageError(cannot_write(copies, error, "use --run ANOTHER_FOLDER")) from error


def with_places(script: str, copies: Path) -> str:
    """A job script with the folder of its copy and that of this `kws` set after its #SBATCH lines: Slurm runs it from a
    spool folder, in whatever folder the job was submitted from, and perhaps without the submitter's environment."""
    lines = script.splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if line[0] not in "#\n"), len(lines))
    places = {"KWS_SLURM": copies.absolute(), "KWS_BIN": Path(sys.executable).parent}
    lines.insert(first, "".join(f"{name}={shlex.quote(str(path))}\n" for name, path in places.items()))
    return "".join(lines)


def _sbatch(command: Sequence[str]) -> str:
    """Runs sbatch and returns the job's number."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UsageError("sbatch: not found; run this on a login node of a cluster, or add --dry-run") from None
    if done.returncode:
        raise UsageError(f"sbatch failed: {done.stderr.strip()}; the command was: {shlex.join(command)}")
    return done.stdout.strip().partition(";")[0]  # NUMBER;CLUSTER where there are several clusters


def _how_to_follow(submission: Submission, number: str) -> list[str]:
    log = submission.folder / "slurm" / (f"{number}_0.log" if submission.is_array else f"{number}.log")
    first = submission.run_of(submission.configs[0])
    return [
        f"queue    squeue -j {number}",
        f"log      tail -F {log}",
        f"restart  touch {first}/stop    (saves, then requeues the job)",
        f"cancel   scancel {number}    (saves; run the same kws launch again to resume)",
    ]
