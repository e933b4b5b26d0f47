"""Was every draw consumed exactly once? A run's ledger against its plan."""

from __future__ import annotations

from pathlib import Path

from kws.corpus import tasks
from kws.data import ledger
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.run import folder as run_folder
from kws.run.checkpoint import Checkpoints


def verify_run(run: Path) -> ledger.LedgerComparison:
    """Checks all steps up to the newest checkpoint. Raises UsageError where the run kept no ledger."""
    config = run_folder.read_config(run)
    if not (run / "ledger").is_dir():
        raise UsageError(f"{run}: no ledger there; train with --set data.ledger=true to have one")
    newest = Checkpoints(run).newest()
    if newest is None:
        raise UsageError(f"{run}: no whole checkpoint there, so no step counts yet")
    training_set = TrainingSet(config, tasks.from_state(newest.state, newest.path))
    if training_set.index.content_id != newest.state["corpus_id"]:
        raise UsageError(
            f"{training_set.index.root}: corpus {training_set.index.content_id}, {run} was trained on {newest.state['corpus_id']}; "
            "put that corpus back there"
        )
    done = int(newest.state["step"])
    plans = {epoch: training_set.plan(epoch) for epoch in range(-(-done // training_set.steps_per_epoch))}
    return ledger.compare_with_plan(run, plans, training_set.steps_per_epoch, done, run_folder.skipped_clips(run))
