"""Slots prepared one ahead: what the network gets, what the ledger records, and errors of the slot after the step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from kws.audio.features import Features
from kws.config import Config, DataConfig, TrainConfig, preset
from kws.data.index import Index
from kws.data.reader import Reader
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.errors import RankError, UsageError
from kws.training.slot_inputs import PreparedSlot, SlotInputs
from kws.training.step_times import StepTimes
from tests.training.one_process import OneProcess

MICRO = 4


@pytest.fixture
def inputs_and_batches(tones: Index) -> tuple[SlotInputs, list[Batch]]:
    """Made with augmentation and mixup, and the batches of an epoch's first steps."""
    train = TrainConfig(global_batch=2 * MICRO, micro_batch=MICRO)
    frontend = preset("modern", features="logmel40", mixup_probability=0.5)
    training_set = TrainingSet(Config(data=DataConfig(shards=str(tones.root)), frontend=frontend, train=train))
    ranks = Ranks(0, 1, torch.device("cpu"), 1, OneProcess())
    inputs = SlotInputs(training_set, Features("logmel40"), ranks, StepTimes())
    reader = SlotReader(
        Reader(training_set.index, "train"), training_set.task.class_of, training_set.excerpt, training_set.read_samples
    )
    return inputs, list(stream_batches(lambda: training_set.plan(0).step_slots(0), reader))


def assert_equal(one: PreparedSlot, other: PreparedSlot) -> None:
    assert one.features is not None
    assert other.features is not None
    assert one.mixup is not None
    assert other.mixup is not None
    assert torch.equal(one.features, other.features)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.mixup.left, other.mixup.left)


def test_a_slot_is_the_same_prepared_ahead_or_not(inputs_and_batches: tuple[SlotInputs, list[Batch]]) -> None:
    inputs, batches = inputs_and_batches
    plain = [inputs.next(iter([batch]), 0, 3) for batch in batches]
    stream = iter(batches)
    for wanted in plain:
        torch.manual_seed(len(batches))
        np.random.seed(len(batches))
        inputs.prepare_ahead(stream, 0, 3)
        assert_equal(inputs.next(stream, 0, 3), wanted)


def test_an_error_of_the_slot_ahead_is_raised_where_the_slot_is_needed(
    inputs_and_batches: tuple[SlotInputs, list[Batch]],
) -> None:
    inputs, batches = inputs_and_batches

    def damaged() -> Iterator[Batch]:
        yield batches[0]
        raise UsageError("a damaged clip")

    stream = damaged()
    assert inputs.next(stream, 0, 0).num_clips == MICRO
    inputs.prepare_ahead(stream, 0, 0)
    with pytest.raises(RankError, match="a damaged clip"):
        inputs.next(stream, 0, 0)


def test_after_the_last_slot_nothing_is_prepared(inputs_and_batches: tuple[SlotInputs, list[Batch]]) -> None:
    inputs, batches = inputs_and_batches
    inputs.prepare_ahead(iter([]), 0, 0)
    assert inputs.next(iter(batches), 0, 0).batch.slot == 0


def test_a_slot_without_clips_has_no_features(inputs_and_batches: tuple[SlotInputs, list[Batch]]) -> None:
    inputs, (batch, *_) = inputs_and_batches
    empty = batch._replace(
        **{name: getattr(batch, name)[:0] for name in ("draws", "clips", "wave", "lengths", "labels")}
    )
    prepared = inputs.next(iter([empty]), 0, 0)
    assert prepared.features is None
    assert prepared.num_clips == 0
