"""What the sampler promised and what was consumed: draws of each class in a run's newest epoch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws import config as settings_file
from kws.corpus import tasks
from kws.data import ledger
from kws.data.training_set import Job
from kws.errors import UsageError
from kws.results import records

_MOST_DRAWS = 2_000_000
"""Of an epoch, to be gone through: more takes seconds."""


class Draws(NamedTuple):
    """Of one class: clips of the train split, draws of the epoch's plan as far as it was trained, and those that the
    ledger has (None: the run kept none)."""

    word: str
    clips: int
    planned: int
    consumed: int | None


class Audit(NamedTuple):
    """The epoch, counted from 0, its steps so far, and a row a class."""

    epoch: int
    steps: int
    rows: list[Draws]


def audit(run: Path, steps_done: int) -> Audit | None:
    """Of the epoch in which step `steps_done` - 1 lies; None where the corpus is not at hand, or nothing was done."""
    try:
        kept = records.read_json(run / "run.json").get("task")
        task = tasks.parse(kept, str(run / "run.json")) if isinstance(kept, dict) else None
        job = Job(settings_file.load(run / "config.toml"), task)
    except UsageError:
        return None
    if not 0 < steps_done <= job.total_steps or job.steps_per_epoch * job.config.train.global_batch > _MOST_DRAWS:
        return None
    epoch = (steps_done - 1) // job.steps_per_epoch
    plan, steps = job.plan(epoch), steps_done - epoch * job.steps_per_epoch
    planned = [slot.clips for step in range(steps) for slot in plan.step_slots(step)]
    found = ledger.live_rows(run) if (run / "ledger").is_dir() else None
    consumed = None
    if found is not None:
        consumed = _counts(job, found[(found[:, 0] == epoch) & (found[:, 1] < steps_done), 4])
    drawn, clips = _counts(job, np.concatenate(planned)), job.selection.counts("train")
    rows = [
        Draws(word, clips[label], drawn[label], None if consumed is None else consumed[label])
        for label, word in enumerate(job.task.classes)
    ]
    return Audit(epoch, steps, rows)


def _counts(job: Job, clips: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """Of each class among these clips of the train split."""
    words = job.index.split("train").values("word", clips).astype(np.int64)
    labels = np.asarray(job.task.class_of)[words]
    found: list[int] = np.bincount(labels[labels >= 0], minlength=len(job.task.classes)).tolist()
    return found
