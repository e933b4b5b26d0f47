"""How long a run will take here: a few slots of the real network on made-up clips, timed and scaled to the whole run.

int16 noise -> augmentation, features, teachers, forward, backward (a slot); the optimizer's update; a forward pass
for evaluation -> seconds of a step, of an epoch, of what is left of the run

Not included: reading clips and sums over ranks, which a run overlaps with computing or which take little of it on one
machine; compiling, and saving. Changes the network's weights: the caller drops the trainer afterwards.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.data.stream import Batch
from kws.distributed.arithmetic import full_float32
from kws.errors import UsageError
from kws.training.forward import ForwardPass, NoWatchdog
from kws.training.slot_inputs import SlotInputs
from kws.training.step_times import StepTimes
from kws.training.trainer import Trainer
from kws.transfers import to_device

ENOUGH_S, AT_MOST_S, AT_MOST_TIMES = 0.5, 5.0, 10
"""Timing ends after half a second, but not before three times, or after ten. A slot that would take longer than five
seconds is estimated from fewer clips."""
_FEW, _WARM_UP = 2, 32


@dataclasses.dataclass(frozen=True)
class SlotTimes:
    """Seconds on one rank: of a slot, of an update, and of the evaluation of a clip."""

    slot: float
    update: float
    clip_evaluation: float
    measured_clips: int
    """Clips of the slots that were timed."""


@dataclasses.dataclass(frozen=True)
class TimeEstimate:
    """Seconds, on the slowest rank. `total`: of the steps and evaluations that are left."""

    step: float
    epoch: float
    total: float
    measured_clips: int
    """Clips of the slots that were timed: few mean a rough estimate."""


def estimate_time(trainer: Trainer) -> TimeEstimate:
    """Measures on all ranks together; raises as `measure_slots`."""
    ranks, train, training_set = trainer.ranks, trainer.config.train, trainer.training_set
    measured = measure_slots(trainer)
    slot, update = max(times.slot for times in measured), max(times.update for times in measured)
    clip_evaluation = max(times.clip_evaluation for times in measured)
    step = slot * (train.slots // ranks.world_size) + update
    valid_clips = sum(training_set.selection.class_counts("valid"))
    evaluation = clip_evaluation * valid_clips / ranks.world_size * (2 if train.ema else 1)
    epoch = training_set.steps_per_epoch * step + evaluation / train.eval_epochs
    steps_left = training_set.total_steps - trainer.state.step
    total = epoch * steps_left / training_set.steps_per_epoch
    return TimeEstimate(step, epoch, total, measured[0].measured_clips)


def measure_slots(trainer: Trainer) -> list[SlotTimes]:
    """The times of each rank, measured on all of them together. torch's random numbers are afterwards as before.

    Raises UsageError on all ranks where a slot does not fit into the memory of a GPU.
    """
    ranks = trainer.ranks
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        ranks.barrier()  # the ranks of a machine compete for its cores, as they will in the run
        return ranks.gather(ranks.on_all(_Measurement(trainer).run))


class _Measurement:
    """The parts of a step on this rank, without its synchronisation."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._device = trainer, trainer.ranks.device
        self._settings, self._network, self._features = trainer.config.train, trainer.network, trainer.features
        self._training_set = trainer.training_set
        self._random = np.random.default_rng(0)
        self._inputs = SlotInputs(
            self._training_set, self._features, trainer.ranks, StepTimes(), self._made_up_noise(), trainer.teachers
        )
        self._forward = ForwardPass(self._network, self._settings, self._device, NoWatchdog())

    def run(self) -> SlotTimes:
        """The times of this rank."""
        try:
            return self._run()
        except torch.cuda.OutOfMemoryError as error:
            size = self._settings.micro_batch
            raise UsageError(
                f"train.micro_batch: a slot of {size} clips does not fit into the memory of {self._device}; use a "
                "smaller one, or --set train.gradient_checkpointing=true"
            ) from error

    def _run(self) -> SlotTimes:
        size = self._settings.micro_batch
        self._network.train()
        # The first time compiles and allocates. In so many clips each step of the augmentation is applied once.
        self._inputs.next(iter([self._batch(_WARM_UP)]), 0, 0)
        clips = self._clips_to_time()
        slot, times = self._time(lambda: self._train(clips))
        update, _ = self._time(self._trainer.optimizer.step, most=3)
        self._trainer.optimizer.zero_grad()
        self._network.eval()
        evaluation, _ = self._time(lambda: self._evaluate(clips), most=3)
        self._network.train()
        return SlotTimes(slot * size / clips, update, evaluation / clips, times * clips)

    def _clips_to_time(self) -> int:
        """Clips of a batch that is timed: a slot, or fewer where a slot would take more than AT_MOST_S. Few clips take
        longer, each, than many."""
        clips, slot = _FEW, self._settings.micro_batch
        cold, _ = self._time(lambda: self._train(_FEW), most=1)
        while clips < slot and cold < 2.0 * AT_MOST_S:  # bf16 where a CPU emulates it: a minute for two clips
            more = min(4 * clips, slot)
            seconds, _ = self._time(lambda: self._train(clips), most=1)  # noqa: B023  # called at once
            if seconds * more / clips > AT_MOST_S:
                break
            clips = more
        return clips

    def _time(self, action: Callable[[], object], most: int = AT_MOST_TIMES) -> tuple[float, int]:
        """The median of several times, in seconds, and their number."""
        seconds: list[float] = []
        while len(seconds) < most and sum(seconds) < (AT_MOST_S if len(seconds) < 3 else ENOUGH_S):
            began = time.perf_counter()
            action()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds), len(seconds)

    def _train(self, clips: int) -> None:
        slot = self._inputs.next(iter([self._batch(clips)]), 0, 0)
        assert slot.features is not None
        torch.autograd.backward(nn.functional.cross_entropy(self._forward(slot.features), slot.labels))

    def _evaluate(self, clips: int) -> None:
        wave = torch.from_numpy(self._noise((clips, self._training_set.samples)))
        with torch.inference_mode(), full_float32():
            self._network(self._features(to_device(wave, self._device)))

    def _batch(self, clips: int) -> Batch:
        """A slot of made-up clips, on the host."""
        samples, numbers = self._training_set.read_samples, torch.arange(clips)
        wave, labels = torch.from_numpy(self._noise((clips, samples))), numbers % len(self._training_set.task.classes)
        return Batch(0, 0, numbers, numbers, wave, torch.full((clips,), samples), labels)

    def _made_up_noise(self) -> list[Pcm]:
        """A noise recording where the corpus has some: nothing is read."""
        has_noise = len(self._training_set.index.splits.get("noise", ())) > 0
        return [self._noise((10 * SAMPLE_RATE_HZ,))] if has_noise else []

    def _noise(self, shape: tuple[int, ...]) -> Pcm:
        return (self._random.standard_normal(shape) * 1000.0).astype(np.int16)
