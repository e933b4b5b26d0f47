"""One step: the features that the network gets, with and without augmentation and mixup, and loss and counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kws.audio.augment import AugmentationChain
from kws.audio.features import Features
from kws.config import Config, DataConfig, FrontEndConfig, TrainConfig, preset
from kws.data.index import Index
from kws.data.reader import Reader, read_noise
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.training.distillation import Teachers
from kws.training.mixup import Mixup
from kws.training.step import PlannedStep, SlotSums, Stepper, StepResult, Votes
from tests.training.one_process import OneProcess

CPU, EPOCH, STEP = torch.device("cpu"), 1, 9
SLOTS, MICRO, SEED = 3, 8, 4


class RecordingNetwork(nn.Module):
    """Keeps its inputs and its logits, which are computed from the mean of each band."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.inputs = nn.Linear(bands, classes), list[Tensor]()
        self.logits = list[Tensor]()

    def forward(self, features: Tensor) -> Tensor:
        self.inputs.append(features)
        self.logits.append(self.head(features.mean(dim=(1, 3))))
        return self.logits[-1]


class Run:
    """One step over three slots of a corpus with that front end."""

    def __init__(self, corpus: Index, frontend: FrontEndConfig, **train: Any) -> None:
        settings = TrainConfig(global_batch=SLOTS * MICRO, micro_batch=MICRO, seed=SEED, **train)
        self.frontend = frontend
        self.training_set = TrainingSet(
            Config(data=DataConfig(shards=str(corpus.root)), frontend=frontend, train=settings)
        )
        self.features = Features(frontend.features)
        self.network = RecordingNetwork(self.features.spec.bands, len(self.training_set.task.classes))
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0)
        self.stepper = stepper = Stepper(
            self.training_set, self.network, self.features, optimizer, Ranks(0, 1, CPU, 1, OneProcess()),
            teachers=Teachers.load(self.training_set, CPU),
        )  # fmt: skip
        reader = Reader(self.training_set.index, "train")
        slot_reader = SlotReader(reader, self.training_set.task.class_of, self.training_set.excerpt)
        slots = self.training_set.plan(EPOCH).step_slots(0)
        self.batches: list[Batch] = list(stream_batches(lambda: slots, slot_reader))
        planned = PlannedStep(STEP, EPOCH, SLOTS * MICRO, last=False)
        self.outcome: StepResult = stepper.step(planned, iter(self.batches), Votes(save=True))

    def mixup(self, slot: int) -> Mixup:
        return Mixup.draw(self.frontend, SEED, STEP, slot, MICRO)


@pytest.mark.parametrize("features", ["mel32", "logmel40", "mfcc40"])
def test_without_augmentation_training_and_evaluation_get_the_same_bits(tones: Index, features: Any) -> None:
    run = Run(tones, preset("none", features=features))
    for got, batch in zip(run.network.inputs, run.batches, strict=True):
        assert batch.wave.shape == (MICRO, 16000)
        assert torch.equal(got, run.features(batch.wave))


@pytest.mark.parametrize("name", ["classic", "modern"])
def test_the_network_gets_the_augmentation_of_the_slots_draws(tones: Index, name: str) -> None:
    run = Run(tones, preset(name, features="mel32"))
    chain = AugmentationChain(run.frontend, run.features, SEED, read_noise(tones, "train"), 16000, CPU)
    for slot, (got, batch) in enumerate(zip(run.network.inputs, run.batches, strict=True)):
        assert batch.draws.tolist() == list(range(slot * MICRO, (slot + 1) * MICRO))
        assert torch.equal(got, chain(batch.wave, batch.lengths.numpy(), batch.draws.numpy(), EPOCH))
        assert not torch.equal(got, run.features(batch.wave[:, :16000]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", ["none", "classic"])
def test_mixup_blends_features_and_labels_of_a_slot(tones: Index, name: str, smoothing: float) -> None:
    plain = Run(tones, preset(name, features="mel32"), label_smoothing=smoothing)
    mixed = Run(tones, preset(name, features="mel32", mixup_probability=0.7), label_smoothing=smoothing)
    loss = correct = 0.0
    for slot, (got, before, batch) in enumerate(
        zip(mixed.network.inputs, plain.network.inputs, mixed.batches, strict=True)
    ):
        mixup, logits = mixed.mixup(slot), mixed.network.logits[slot]
        assert torch.equal(got, mixup.features(before))
        classes = logits.shape[1]
        one, other = (nn.functional.one_hot(truth, classes) for truth in (batch.labels, batch.labels[mixup.partner]))
        soft = mixup.left[:, None] * one + (1 - mixup.left[:, None]) * other
        loss += nn.functional.cross_entropy(logits, soft, reduction="sum", label_smoothing=smoothing).item()
        correct += soft.gather(1, logits.argmax(dim=1)[:, None]).sum().item()
    assert mixed.outcome.loss == pytest.approx(loss, rel=1e-5)
    assert mixed.outcome.correct == pytest.approx(correct, rel=1e-5)
    assert mixed.outcome.clips == SLOTS * MICRO


def test_without_mixup_loss_and_correct_clips_are_plain_sums(tones: Index) -> None:
    run = Run(tones, preset("none", features="mel32"))
    right = sum(
        int((said.argmax(dim=1) == batch.labels).sum())
        for said, batch in zip(run.network.logits, run.batches, strict=True)
    )
    assert run.outcome.correct == right
    losses = [
        nn.functional.cross_entropy(said, batch.labels, reduction="sum").item()
        for said, batch in zip(run.network.logits, run.batches, strict=True)
    ]
    assert run.outcome.loss == pytest.approx(sum(losses), rel=1e-5)


def test_votes_of_all_ranks_come_back(tones: Index) -> None:
    assert Run(tones, preset("none", features="mel32")).outcome.votes == Votes(save=True)


def test_sums_keep_their_names_through_one_vector() -> None:
    sums = SlotSums(torch.arange(5.0).double(), *torch.tensor([0.5, 7.0, 8.0], dtype=torch.float64).unbind())
    back = SlotSums.from_flat(sums.flat())
    assert torch.equal(back.statistics, sums.statistics)
    assert (back.loss.item(), back.correct.item(), back.clips.item()) == (0.5, 7.0, 8.0)


def test_a_loss_that_is_not_finite_names_step_slot_and_draws_and_changes_no_weight(tones: Index) -> None:
    run = Run(tones, preset("none", features="mel32"))
    with torch.no_grad():
        run.network.head.bias.fill_(float("nan"))
    weights = run.network.head.weight.detach().clone()
    with pytest.raises(UsageError, match=rf"step {STEP}: .*slot 0, draws 0 to {MICRO - 1}.*train\.lr"):
        run.stepper.step(PlannedStep(STEP, EPOCH, SLOTS * MICRO, last=False), iter(run.batches), Votes())
    assert torch.equal(run.network.head.weight, weights)


class FirstOfTwo(Ranks):
    """Rank 0 of two whose sums are its own."""

    def sum(self, values: Tensor) -> Tensor:
        return values


class NormedNetwork(RecordingNetwork):
    """With a batch norm in front."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__(bands, classes)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.norm(features))


def test_the_warm_up_of_ddp_runs_slots_of_the_usual_size_and_leaves_no_trace(tones: Index) -> None:
    settings = TrainConfig(global_batch=2 * MICRO, micro_batch=MICRO, precision="bf16")
    training_set = TrainingSet(
        Config(data=DataConfig(shards=str(tones.root)), frontend=preset("none", features="mel32"), train=settings)
    )
    features, network = Features("mel32"), NormedNetwork(32, len(training_set.task.classes))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    Stepper(training_set, network, features, optimizer, FirstOfTwo(0, 2, CPU, 1, OneProcess()))
    assert [logits.shape[0] for logits in network.logits] == [MICRO, MICRO]
    assert {logits.dtype for logits in network.logits} == {torch.bfloat16}
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())
    assert network.norm.training
