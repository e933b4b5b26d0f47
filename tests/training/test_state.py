"""TrainState: best values, early stopping, checkpoints of this and of the first version. Meter: means."""

from __future__ import annotations

import json

import pytest

from kws.config import TrainConfig
from kws.training.optim import Plateau
from kws.training.state import Meter, TrainState


def test_a_state_survives_its_json() -> None:
    state = TrainState(step=7, evaluation_pending=True, best_accuracy=0.5, best_loss=1.25, since_best=2, ended=True)
    state.plateau, state.planned_epoch, state.planned = Plateau(0.5, 1, 0.1), 3, "abcd"
    restored = TrainState()
    restored.load_state_dict(json.loads(json.dumps(state.state_dict() | {"words": ["yes"], "epoch": 3})))
    assert restored == state


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_checkpoint_of_the_first_version_is_read(evaluated: bool) -> None:
    old = TrainState(step=7).state_dict()
    del old["evaluation_pending"]
    state = TrainState()
    state.load_state_dict(old | {"evaluated": evaluated})
    assert state.step == 7
    assert state.evaluation_pending is not evaluated


def test_an_evaluation_moves_the_pointers_of_what_improved() -> None:
    state, settings = TrainState(), TrainConfig()
    assert set(state.record_evaluation(0.5, 1.0, settings)) == {"best_accuracy", "best_loss"}
    assert state.record_evaluation(0.4, 0.9, settings) == ["best_loss"]
    assert state.record_evaluation(0.5, 0.9, settings) == []  # equal is no improvement
    assert (state.best_accuracy, state.best_loss, state.since_best, state.ended) == (0.5, 0.9, 2, False)


def test_stop_after_ends_a_run_that_no_longer_improves() -> None:
    state, settings = TrainState(), TrainConfig(stop_after=2)
    ended = []
    for accuracy in (0.5, 0.4, 0.6, 0.6, 0.5):
        state.record_evaluation(accuracy, 1.0, settings)
        ended.append(state.ended)
    assert ended == [False, False, False, False, True]


def test_only_the_plateau_schedule_follows_the_loss() -> None:
    for schedule, scale in (("cosine", 1.0), ("plateau", 0.5)):
        state = TrainState()
        for _ in range(3):
            state.record_evaluation(0.5, 1.0, TrainConfig(schedule=schedule, patience=1, factor=0.5))
        assert state.plateau.scale == scale


def test_means_are_over_clips() -> None:
    meter = Meter()
    assert meter.means() == {}
    meter.add(loss=6.0, correct=2, clips=3, waited=0.0)
    meter.add(loss=2.0, correct=1, clips=1, waited=0.0)
    means = meter.means("train_")
    assert (means["train_loss"], means["train_accuracy"], means["data_wait"]) == (2.0, 0.75, 0.0)
    assert means["clips_per_s"] > 0.0
