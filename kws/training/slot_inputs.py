"""From a slot's batch to the network's input on the device, one slot ahead of the network.

    batch (host) -> parameters drawn, packed, copied with the waves -> front end -> mixup -> PreparedSlot (device)

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
from kws.training.mixup import Mixup
from kws.training.step_times import StepTimes
from kws.transfers import to_device


@dataclasses.dataclass(frozen=True)
class PreparedSlot:
    """A slot that is ready for the network: its batch on the host; features (B, 1, F, N), labels (B,) and mixup on the
    device. A slot without clips has no features."""

    batch: Batch
    features: Tensor | None
    labels: Tensor
    mixup: Mixup | None

    @property
    def num_clips(self) -> int:
        """B."""
        return len(self.batch.clips)


@dataclasses.dataclass(frozen=True)
class _Parameters:
    """What the device needs beside the waves, copied at once."""

    labels: Tensor
    augmentation: BatchSteps | None
    mixup: Mixup | None


class SlotInputs:
    """Prepares slots for a rank. `noises`: the noise recordings of the augmentation; by default those of the corpus."""

    def __init__(
        self, training_set: TrainingSet, features: Features, ranks: Ranks, times: StepTimes,
        noises: Sequence[Pcm] | None = None,
    ) -> None:  # fmt: skip
        self._training_set, self._features, self._device = training_set, features, ranks.device
        self._ranks, self._seed, self._times = ranks, training_set.config.train.seed, times
        self._chain = self._build_chain(noises)
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
            features: Tensor = self._features(wave)
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
            return self._apply_front_end(batch, epoch, step)

    def _apply_front_end(self, batch: Batch, epoch: int, step: int) -> PreparedSlot:
        wave = to_device(batch.wave, self._device)
        parameters = to_device(self._draw(batch, epoch, step), self._device)
        with torch.no_grad():
            features: Tensor = (
                self._features(wave)
                if self._chain is None or parameters.augmentation is None
                else self._chain.apply(wave, parameters.augmentation)
            )
            if parameters.mixup:
                features = parameters.mixup.features(features)
        return PreparedSlot(batch, features, parameters.labels, parameters.mixup)

    def _draw(self, batch: Batch, epoch: int, step: int) -> _Parameters:
        """The slot's parameters, on the host."""
        frontend, mixup, augmentation = self._training_set.config.frontend, None, None
        if frontend.mixup_probability > 0.0:
            mixup = Mixup.draw(frontend, self._seed, step, batch.slot, len(batch.clips))
        if self._chain:
            augmentation = self._chain.draw(batch.lengths.numpy(), batch.draws.numpy(), epoch)
        return _Parameters(batch.labels, augmentation, mixup)

    def _build_chain(self, noises: Sequence[Pcm] | None) -> AugmentationChain | None:
        config, frontend = self._training_set.config, self._training_set.config.frontend
        if not frontend.augments:
            return None
        if noises is None:
            needs_noise = frontend.noise_probability > 0.0 or frontend.mix_probability > 0.0
            caching = CacheSettings.from_config(config.data)
            noises = read_noise(self._training_set.index, "train", caching) if needs_noise else []
        return AugmentationChain(frontend, self._features, self._seed, noises, self._training_set.samples, self._device)
