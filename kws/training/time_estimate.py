"""How long a run will take here: a few slots of the real network on made-up clips, timed and scaled to the whole run.

int16 noise -> augmentation, features, forward, backward (a slot); the optimizer's update; a forward pass for evaluation
-> seconds of a step, of an epoch, of what is left of the run

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
from torch import Tensor, nn

from kws.audio.augment import AugmentationChain
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.distributed.arithmetic import full_float32
from kws.errors import UsageError
from kws.training.forward import ForwardPass, NoWatchdog
from kws.training.trainer import Trainer

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
        self._num_classes = len(trainer.training_set.task.classes)
        self._random = np.random.default_rng(0)
        self._chain = self._make_chain()
        if self._settings.channels_last:
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        self._inputs(_WARM_UP, augmented=True)
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
        with torch.no_grad():
            inputs = self._inputs(clips, augmented=True)
        labels = torch.arange(clips, device=self._device) % self._num_classes
        torch.autograd.backward(nn.functional.cross_entropy(self._forward(inputs), labels))

    def _evaluate(self, clips: int) -> None:
        with torch.inference_mode(), full_float32():
            self._network(self._inputs(clips, augmented=False))

    def _inputs(self, clips: int, augmented: bool) -> Tensor:
        training_set = self._trainer.training_set
        samples = training_set.read_samples if augmented else training_set.samples
        wave = torch.from_numpy(self._noise(clips * samples).reshape(clips, samples)).to(self._device)
        if augmented and self._chain:
            return self._chain(wave, np.full(clips, samples), np.arange(clips), 0)
        plain: Tensor = self._features(wave)
        return plain

    def _make_chain(self) -> AugmentationChain | None:
        """The augmentation of the run, with made-up noise where the corpus has some: nothing is read."""
        frontend, training_set = self._trainer.config.frontend, self._trainer.training_set
        if not frontend.augments:
            return None
        has_noise = len(training_set.index.splits.get("noise", ())) > 0
        noises = [self._noise(10 * SAMPLE_RATE_HZ)] if has_noise else []
        seed, samples = self._settings.seed, training_set.samples
        return AugmentationChain(frontend, self._features, seed, noises, samples, self._device)

    def _noise(self, samples: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
        return (self._random.standard_normal(samples) * 1000.0).astype(np.int16)
