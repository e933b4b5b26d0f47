"""Steps of a training in this process: the classes of kws.training, on batches that were read before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_checks import corpora
from benchmarks.gpu_checks.check import Context
from kws.audio.features import Features
from kws.config import Config, DataConfig, FrontEndConfig, ModelConfig, TrainConfig, preset
from kws.data.reader import Reader
from kws.data.stream import Batch, SlotReader
from kws.data.training_set import TrainingSet
from kws.distributed import process_group
from kws.distributed.ranks import Ranks
from kws.training.network import build_network
from kws.training.optim import build_optimizer
from kws.training.step import PlannedStep, Stepper, StepResult, Votes


@contextmanager
def one_rank(context: Context, **train: Any) -> Iterator[Ranks]:
    """This process as the only rank, on the context's device; `train`: settings of TrainConfig."""
    threads = 0 if context.on_gpu else 1
    with process_group.start(TrainConfig(device=context.device, threads=threads, **train)) as ranks:  # type: ignore[arg-type]
        yield ranks


def make_config(
    context: Context, network: str, frontend: FrontEndConfig | None = None, speed: bool = False, **train: Any
) -> Config:
    """A config for a few steps on tones; with `speed`, on the clips for measuring speed. `train`: its settings, by
    default four slots of 16 clips."""
    shards = corpora.clips(context) if speed else corpora.tones(context)
    settings: dict[str, Any] = {"global_batch": 64, "micro_batch": 16, "device": context.device, **train}
    return Config(
        data=DataConfig(shards=str(shards), workers=0), frontend=frontend or preset("classic", features="mel32"),
        model=ModelConfig(name=network), train=TrainConfig(**settings),
    )  # fmt: skip


class Steps:
    """A network in training. Its batches, of the first steps of epoch 0, are in (pinned) memory and repeat."""

    def __init__(self, config: Config, ranks: Ranks, num_steps: int = 2) -> None:
        self.training_set, self.config, self.ranks = TrainingSet(config), config, ranks
        self.features = Features(config.frontend.features).to(ranks.device)
        shape, classes = self.features.shape(self.training_set.samples), len(self.training_set.task.classes)
        self.network = build_network(config, classes, shape, ranks.device)
        self.optimizer = build_optimizer(self.network, config.train)
        self.stepper = Stepper(self.training_set, self.network, self.features, self.optimizer, ranks)
        self.batches = itertools.cycle(list(self._read(num_steps)))
        self.done = 0

    def step(self, number: int | None = None) -> StepResult:
        """One step. `number`: as which it counts; its random numbers depend on it."""
        planned = PlannedStep(self.done if number is None else number, 0, self.config.train.global_batch, last=False)
        self.done += 1
        return self.stepper.step(planned, self.batches, Votes())

    def _read(self, num_steps: int) -> Iterator[Batch]:
        training_set = self.training_set
        reader = Reader(training_set.index, "train", "never")
        slots = SlotReader(
            reader, training_set.task.class_of, training_set.excerpt, training_set.read_samples,
            device=self.ranks.device,
        )  # fmt: skip
        plan = training_set.plan(0)
        for number in range(min(num_steps, plan.steps)):
            for slot in plan.step_slots(number):
                yield slots.batch(slot)


def weights(steps: Steps) -> torch.Tensor:
    """All parameters as one vector on the CPU."""
    return torch.cat([p.detach().flatten().cpu() for p in steps.network.parameters()])
