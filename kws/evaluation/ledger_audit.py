"""Checks a run's ledger against its plan: every planned sample must have been consumed exactly once."""

from __future__ import annotations

from pathlib import Path

from kws.corpus import tasks
from kws.data import ledger
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.evaluation.trained import check_corpus
from kws.run import folder as run_folder
from kws.run.checkpoint import Checkpoints


def verify_run(run: Path) -> ledger.LedgerComparison:
    """Checks all steps up to the newest checkpoint.

    Raises UsageError where the run has no ledger or no checkpoint, and where its corpus was replaced by another.
    """
    config = run_folder.read_config(run)
    if not (run / "ledger").is_dir():
        raise UsageError(f"{run}: found no ledger; train with --set data.ledger=true to write one")
    newest = Checkpoints(run).newest()
    if newest is None:
        raise UsageError(f"{run}: found no complete checkpoint, so there is no step to verify yet")
    training_set = TrainingSet(config, tasks.from_state(newest.state, newest.path))
    check_corpus(training_set.index, newest, "restore that corpus in this folder")
    steps_done = int(newest.state["step"])
    plans = {epoch: training_set.plan(epoch) for epoch in range(-(-steps_done // training_set.steps_per_epoch))}
    return ledger.compare_with_plan(run, plans, training_set.steps_per_epoch, steps_done, run_folder.skipped_clips(run))
