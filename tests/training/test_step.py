"""What the network gets in a training step: features of the draw, mixed or not, and what is counted of its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kws.audio.augment import Augment
from kws.audio.features import Features
from kws.config import Config, DataConfig, FrontEndConfig, TrainConfig, preset
from kws.data.index import Index
from kws.data.stream import Batch, Reader, noise_of, stream
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.training.mixup import Mixup
from kws.training.step import Outcome, Stepper

CPU, EPOCH, STEP = torch.device("cpu"), 1, 9
SLOTS, MICRO, SEED = 3, 8, 4


class Alone:
    """What is asked of an Accelerator where there is one process."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return model

    @contextlib.contextmanager
    def no_sync(self, model: nn.Module) -> Iterator[None]:
        yield


class Listener(nn.Module):
    """Remembers what it gets, and answers by the mean of each band."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.answers, self.got = nn.Linear(bands, classes), list[Tensor]()
        self.said = list[Tensor]()

    def forward(self, features: Tensor) -> Tensor:
        self.got.append(features)
        self.said.append(self.answers(features.mean(dim=(1, 3))))
        return self.said[-1]


class Run:
    """One step over three slots of a corpus with that front end."""

    def __init__(self, corpus: Index, frontend: FrontEndConfig, **train: Any) -> None:
        settings = TrainConfig(global_batch=SLOTS * MICRO, micro_batch=MICRO, seed=SEED, **train)
        self.frontend = frontend
        self.training_set = TrainingSet(
            Config(data=DataConfig(shards=str(corpus.root)), frontend=frontend, train=settings)
        )
        self.features = Features(frontend.features)
        self.network = Listener(self.features.spec.bands, len(self.training_set.task.classes))
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0)
        stepper = Stepper(self.training_set, self.network, self.features, optimizer, Ranks(0, 1, CPU, 1, Alone()))
        reader = Reader(
            self.training_set.index, "train", self.training_set.task.class_of, self.training_set.read_samples
        )
        self.batches: list[Batch] = list(stream(lambda: self.training_set.plan(EPOCH).step_slots(0), reader))
        self.outcome: Outcome = stepper.step(iter(self.batches), SLOTS * MICRO, EPOCH, STEP, (False,), None)

    def mixup(self, slot: int) -> Mixup:
        return Mixup(self.frontend, SEED, STEP, slot, MICRO, CPU)


@pytest.mark.parametrize("features", ["mel32", "logmel40", "mfcc40"])
def test_without_a_chain_training_and_evaluation_see_the_same_bits(tones: Index, features: Any) -> None:
    run = Run(tones, preset("none", features=features))
    for got, batch in zip(run.network.got, run.batches, strict=True):
        assert batch.wave.shape == (MICRO, 16000)
        assert torch.equal(got, run.features(batch.wave))


@pytest.mark.parametrize("name", ["classic", "modern"])
def test_with_one_it_gets_what_the_draws_of_the_slot_give(tones: Index, name: str) -> None:
    run = Run(tones, preset(name, features="mel32"))
    chain = Augment(run.frontend, run.features, SEED, noise_of(tones, "train"), 16000, CPU)
    for slot, (got, batch) in enumerate(zip(run.network.got, run.batches, strict=True)):
        assert batch.draws.tolist() == list(range(slot * MICRO, (slot + 1) * MICRO))
        assert torch.equal(got, chain(batch.wave, batch.lengths.numpy(), batch.draws.numpy(), EPOCH))
        assert not torch.equal(got, run.features(batch.wave[:, :16000]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["none", "classic"])
def test_mixup_mixes_features_and_labels_of_a_slot(tones: Index, name: str, smoothing: float) -> None:
    plain = Run(tones, preset(name, features="mel32"), label_smoothing=smoothing)
    mixed = Run(tones, preset(name, features="mel32", mixup_probability=0.7), label_smoothing=smoothing)
    loss = correct = 0.0
    for slot, (got, before, batch) in enumerate(zip(mixed.network.got, plain.network.got, mixed.batches, strict=True)):
        mixup, logits = mixed.mixup(slot), mixed.network.said[slot]
        assert torch.equal(got, mixup.features(before))
        classes = logits.shape[1]
        one, other = (nn.functional.one_hot(truth, classes) for truth in (batch.labels, batch.labels[mixup.partner]))
        soft = mixup.left[:, None] * one + (1 - mixup.left[:, None]) * other
        loss += nn.functional.cross_entropy(logits, soft, reduction="sum", label_smoothing=smoothing).item()
        correct += soft.gather(1, logits.argmax(dim=1)[:, None]).sum().item()
    assert mixed.outcome.loss == pytest.approx(loss, rel=1e-5)
    assert mixed.outcome.correct == pytest.approx(correct, rel=1e-5)
    assert mixed.outcome.clips == SLOTS * MICRO


def test_without_mixup_right_answers_are_whole(tones: Index) -> None:
    run = Run(tones, preset("none", features="mel32"))
    right = sum(
        int((said.argmax(dim=1) == batch.labels).sum())
        for said, batch in zip(run.network.said, run.batches, strict=True)
    )
    assert run.outcome.correct == right
    losses = [
        nn.functional.cross_entropy(said, batch.labels, reduction="sum").item()
        for said, batch in zip(run.network.said, run.batches, strict=True)
    ]
    assert run.outcome.loss == pytest.approx(sum(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("longest", "changes", "wanted"),
    [
        (16000, {"speed": 0.2}, 16000),  # no clip is longer
        (22400, {"speed": 0.2}, 20001),
        (17000, {"speed": 0.2}, 17000),
        (22400, {"speed": 0.2, "speed_probability": 0.0}, 16000),
        (8000, {"speed": 0.2}, 16000),
    ],
)
def test_clips_are_read_as_long_as_speed_may_need(
    tones: Index, longest: int, changes: dict[str, Any], wanted: int
) -> None:
    settings = Config(data=DataConfig(shards=str(tones.root)), frontend=preset("classic", **changes))
    training_set = TrainingSet(settings)
    columns = dict(training_set.index.split("train").columns)
    columns["samples"] = np.minimum(columns["samples"], longest)
    columns["samples"][7] = longest
    object.__setattr__(training_set.index.split("train"), "columns", columns)
    assert training_set.read_samples == wanted
