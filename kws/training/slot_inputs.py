"""From a slot's batch to the network's input on the device, one slot ahead of the network.

    batch (host) -> parameters drawn, packed, copied with the waves -> front end -> mixup -> PreparedSlot (device)
    with train.teacher also: -> the teachers' features, of the same augmented waves -> their probabilities

The host waits for nothing here, so a slot that is prepared while the device computes costs no time. What a slot becomes
does not depend on when it is prepared: all random numbers depend on seed, epoch, draw, step and slot.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kws.audio.augment import AugmentationChain, BatchSteps
from kws.audio.codec import Pcm
from kws.audio.features import Features
from kws.data.reader import read_noise
from kws.data.store import CacheSettings
from kws.data.stream import Batch
from kws.data.training_set import TrainingSet
from kws.distributed.ranks import Ranks
from kws.training.distillation import Teachers
from kws.training.mixup import Mixup
from kws.training.step_times import StepTimes
from kws.transfers import to_device


@dataclasses.dataclass(frozen=True)
class PreparedSlot:
    """A slot that is ready for the network: its batch on the host; features (B, 1, F, N), labels (B,), mixup and the
    teachers' probabilities (B, C) on the device. A slot without clips has no features."""

    batch: Batch
    features: Tensor | None
    labels: Tensor
    mixup: Mixup | None
    probabilities: Tensor | None = None

    @property
    def num_clips(self) -> int:
        """B."""
        return len(self.batch.clips)


@dataclasses.dataclass(frozen=True)
class _Parameters:
    """What the device needs beside the waves, copied at once."""

    labels: Tensor
    augmentations: list[BatchSteps]
    """For each of the features, the student's first; empty without augmentation."""
    mixup: Mixup | None


class SlotInputs:
    """Prepares slots for a rank. `noises`: the noise recordings of the augmentation; by default those of the corpus."""

    def __init__(
        self, training_set: TrainingSet, features: Features, ranks: Ranks, times: StepTimes,
        noises: Sequence[Pcm] | None = None, teachers: Teachers | None = None,
    ) -> None:  # fmt: skip
        self._training_set, self._device = training_set, ranks.device
        self._ranks, self._seed, self._times = ranks, training_set.config.train.seed, times
        self._teachers = teachers
        # All different features, the network's first, and which of them each teacher gets.
        self._features, self._of_teacher = _different_features(features, teachers.features if teachers else [])
        self._chains = self._build_chains(noises)
        self._ahead: PreparedSlot | Exception | None = None
        self._waited = 0.0

    def next(self, batches: Iterator[Batch], epoch: int, step: int) -> PreparedSlot:
        """The next slot of `batches`; it belongs to `step` of the whole run. Raises what preparing it raised."""
        prepared, self._ahead = self._ahead, None
        if prepared is None:
            return self._prepare(self._read(batches), epoch, step)
        if isinstance(prepared, Exception):
            raise prepared
        return prepared

    def prepare_ahead(self, batches: Iterator[Batch], epoch: int, step: int) -> None:
        """Prepares the slot that `next` will return. An error is kept until then: the step before it is complete."""
        try:
            self._ahead = self._prepare(self._read(batches), epoch, step)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001  # raised by `next`
            self._ahead = error

    def take_waited(self) -> float:
        """Seconds waited for batches since the last call."""
        waited, self._waited = self._waited, 0.0
        return waited

    def silence(self, clips: int) -> Tensor:
        """Features of silent clips, (B, 1, F, N)."""
        with torch.no_grad():
            wave = torch.zeros(clips, self._training_set.samples, dtype=torch.int16, device=self._device)
            features: Tensor = self._features[0](wave)
            return features

    def _read(self, batches: Iterator[Batch]) -> Batch:
        before = time.perf_counter()
        try:
            with self._times.part("data"), self._ranks.local_errors():
                return next(batches)
        finally:
            self._waited += time.perf_counter() - before

    def _prepare(self, batch: Batch, epoch: int, step: int) -> PreparedSlot:
        if len(batch.clips) == 0:
            return PreparedSlot(batch, None, batch.labels, None)
        with self._times.part("front_end"):
            wave = to_device(batch.wave, self._device)
            parameters = to_device(self._draw(batch, epoch, step), self._device)
            with torch.no_grad():
                found = self._apply_front_end(wave, parameters)
        probabilities = None
        if self._teachers:
            with self._times.part("forward"):
                probabilities = self._teachers.probabilities([found[number] for number in self._of_teacher])
        return PreparedSlot(batch, found[0], parameters.labels, parameters.mixup, probabilities)

    def _apply_front_end(self, wave: Tensor, parameters: _Parameters) -> list[Tensor]:
        """All different features of waves (B, T): the network's first, (B, 1, F, N) each."""
        found: list[Tensor]
        if not self._chains:
            found = [features(wave) for features in self._features]
        elif len(self._chains) == 1:
            found = [self._chains[0].apply(wave, parameters.augmentations[0])]
        else:
            waves = list(self._chains[0].transformed(wave, parameters.augmentations[0]))
            pairs = zip(self._chains, parameters.augmentations, strict=True)
            found = [chain.features_of(waves, steps) for chain, steps in pairs]
        return [parameters.mixup.features(features) for features in found] if parameters.mixup else found

    def _draw(self, batch: Batch, epoch: int, step: int) -> _Parameters:
        """The slot's parameters, on the host."""
        frontend, mixup = self._training_set.config.frontend, None
        if frontend.mixup_probability > 0.0:
            mixup = Mixup.draw(frontend, self._seed, step, batch.slot, len(batch.clips))
        lengths, draws = batch.lengths.numpy(), batch.draws.numpy()
        return _Parameters(batch.labels, [chain.draw(lengths, draws, epoch) for chain in self._chains], mixup)

    def _build_chains(self, noises: Sequence[Pcm] | None) -> list[AugmentationChain]:
        """The augmentation for each of the features; [] without any."""
        config, frontend = self._training_set.config, self._training_set.config.frontend
        if not frontend.augments:
            return []
        if noises is None:
            needs_noise = frontend.noise_probability > 0.0 or frontend.mix_probability > 0.0
            caching = CacheSettings.from_config(config.data)
            noises = read_noise(self._training_set.index, "train", caching) if needs_noise else []
        samples, (features, *others) = self._training_set.samples, self._features
        chain = AugmentationChain(frontend, features, self._seed, noises, samples, self._device)
        return [chain, *(chain.with_features(other) for other in others)]


def _different_features(own: Features, teachers: Sequence[Features]) -> tuple[list[Features], list[int]]:
    """The features that differ, `own` first, and the number of each teacher's among them."""
    found = [own]
    for features in teachers:
        if not any(features.is_same_as(other) for other in found):
            found.append(features)
    return found, [next(n for n, other in enumerate(found) if other.is_same_as(features)) for features in teachers]
