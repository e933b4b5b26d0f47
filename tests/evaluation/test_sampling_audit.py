"""The planned and consumed draws of each class, for a run folder with a real ledger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kws import settings_file
from kws.data import ledger
from kws.data.index import Index
from kws.data.training_set import TrainingSet
from kws.evaluation import sampling_audit


@pytest.fixture
def run(tones: Index, tmp_path: Path) -> Path:
    """The folder of a run that has consumed its first seven steps, in two attempts; nothing is trained."""
    settings = settings_file.from_overrides(
        [f"data.shards={tones.root}", "data.sampling=balanced", "train.global_batch=32", "train.micro_batch=8"]
    )
    (tmp_path / "config.toml").write_text(settings_file.to_toml(settings))
    training_set = TrainingSet(settings)
    for attempt, first, last in ((1, 0, 6), (2, 3, 7)):
        writer = ledger.Ledger(tmp_path, attempt, 0, first)
        for step in range(first, last):
            epoch, within = divmod(step, training_set.steps_per_epoch)
            for slot in training_set.plan(epoch).step_slots(within):
                writer.add(epoch, step, slot.slot, slot.draws, slot.clips)
        writer.close()
    return tmp_path


def test_consumed_draws_of_the_newest_epoch_match_the_plan(run: Path, tones: Index) -> None:
    training_set = TrainingSet(settings_file.load(run / "config.toml"))
    found = sampling_audit.audit_sampling(run, 7)
    assert found is not None
    assert (found.epoch, found.steps) == (
        6 // training_set.steps_per_epoch,
        7 - 6 // training_set.steps_per_epoch * training_set.steps_per_epoch,
    )
    assert [row.word for row in found.rows] == ["high", "low", "mid"]
    assert sum(row.clips for row in found.rows) == len(tones.split("train"))
    assert [row.consumed for row in found.rows] == [row.planned for row in found.rows]
    assert sum(row.planned for row in found.rows) == 32 * found.steps


def test_a_whole_epoch_of_balanced_draws_has_equal_class_totals(run: Path) -> None:
    training_set = TrainingSet(settings_file.load(run / "config.toml"))
    found = sampling_audit.audit_sampling(run, training_set.steps_per_epoch)
    assert found is not None
    assert found.epoch == 0
    assert np.ptp([row.planned for row in found.rows]) <= 1


def test_missing_draws_are_counted(run: Path) -> None:
    (path,) = (run / "ledger").glob("0002-*")
    path.write_bytes(path.read_bytes()[: -8 * 5 * 4])
    found = sampling_audit.audit_sampling(run, 7)
    assert found is not None
    assert sum(row.planned - (row.consumed or 0) for row in found.rows) == 4


def test_without_a_ledger_only_the_plan_is_shown_and_without_a_corpus_nothing(run: Path, tones: Index) -> None:
    for path in (run / "ledger").iterdir():
        path.unlink()
    (run / "ledger").rmdir()
    found = sampling_audit.audit_sampling(run, 7)
    assert found is not None
    assert {row.consumed for row in found.rows} == {None}
    assert sampling_audit.audit_sampling(run, 0) is None
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace(str(tones.root), "/nowhere"))
    assert sampling_audit.audit_sampling(run, 7) is None
