"""Counts planned and consumed draws of each class in the newest epoch of a run, for its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kws.corpus import tasks
from kws.data import ledger
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.results import records
from kws.results.records import ClassDraws, SamplingAudit
from kws.run import folder as run_folder

_MAX_DRAWS = 2_000_000
"""The longest epoch that is audited, in draws; a longer one would take seconds."""


def audit_sampling(run: Path, steps_done: int) -> SamplingAudit | None:
    """Audits the epoch of the last step done; None where the corpus is not available or no step was done."""
    try:
        kept = records.read_json(run / "run.json").get("task")
        task = tasks.parse(kept, str(run / "run.json")) if isinstance(kept, dict) else None
        training_set = TrainingSet(run_folder.read_config(run), task)
    except UsageError:
        return None
    if (
        not 0 < steps_done <= training_set.total_steps
        or training_set.steps_per_epoch * training_set.config.train.global_batch > _MAX_DRAWS
    ):
        return None
    epoch = (steps_done - 1) // training_set.steps_per_epoch
    plan, steps = training_set.plan(epoch), steps_done - epoch * training_set.steps_per_epoch
    planned = [slot.clips for step in range(steps) for slot in plan.step_slots(step)]
    found = ledger.consumed_rows(run) if (run / "ledger").is_dir() else None
    consumed = None
    if found is not None:
        consumed = _counts(training_set, found[(found[:, 0] == epoch) & (found[:, 1] < steps_done), 4])
    drawn, clips = _counts(training_set, np.concatenate(planned)), training_set.selection.class_counts("train")
    rows = [
        ClassDraws(word, clips[label], drawn[label], None if consumed is None else consumed[label])
        for label, word in enumerate(training_set.task.classes)
    ]
    return SamplingAudit(epoch, steps, rows)


def _counts(training_set: TrainingSet, clips: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
    """Number of draws of each class among these clips of the train split."""
    words = training_set.index.split("train").values("word", clips).astype(np.int64)
    labels = np.asarray(training_set.task.class_of)[words]
    found: list[int] = np.bincount(labels[labels >= 0], minlength=len(training_set.task.classes)).tolist()
    return found
