"""Waveforms to augmented features: the chain that training clips go through, in batches, on the network's device.

    (B, T) -> gain, speed, shift -> reverberation -> added noise -> spectrum -> time stretch, frame shift
           -> mixed-in noise, transformed in the same way -> mel bands, log or decibels -> SpecAugment -> (B, 1, F, N)

kws/audio/augment_parameters.py draws the parameters of each step. On a CPU a few clips at a time go through the chain,
so that their data stays in its cache. A step that applies to none of them costs nothing.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from kws.audio.augment_parameters import AugmentationSampler, Floats, Ints, NoiseParameters, TransformParameters
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import Features
from kws.audio.frames import BatchedFrameSteps, CompiledFrameSteps, FrameSteps
from kws.audio.noise import NoiseBank, room_responses
from kws.audio.waves import BatchedWaveTransform, CompiledWaveTransform, WaveTransform, apply_to_rows, row_numbers
from kws.config import FrontEndConfig
from kws.transfers import to_device


@dataclasses.dataclass(frozen=True)
class Implementation:
    """Which implementation of the steps is used, and for how many clips at once (0: a whole batch)."""

    waves: type[WaveTransform]
    frames: type[FrameSteps]
    clips_at_once: int


COMPILED = Implementation(CompiledWaveTransform, CompiledFrameSteps, 16)
BATCHED = Implementation(BatchedWaveTransform, BatchedFrameSteps, 0)


def implementation(device: torch.device) -> Implementation:
    """Loops over samples on a CPU, tensor operations on a GPU."""
    return COMPILED if device.type == "cpu" else BATCHED


@dataclasses.dataclass(frozen=True)
class Reverb:
    """Which rows (R,) are convolved with which `rooms` (R,); rows None: all."""

    rows: Tensor | None
    rooms: Tensor


@dataclasses.dataclass(frozen=True)
class AddedNoise:
    """To which rows (R,) noise is added: from which first sample of the bank on (R,), and its level relative to the
    clip's (R, 1); rows None: all."""

    rows: Tensor | None
    starts: Tensor
    level: Tensor


@dataclasses.dataclass(frozen=True)
class MixedNoise:
    """Noise that is transformed as clips are and mixed into spectrograms: rows of the bank (M,)."""

    numbers: Tensor
    transform: WaveTransform


@dataclasses.dataclass(frozen=True)
class ClipSteps:
    """The augmentation of B clips before their features. A step that applies to none is None."""

    transform: WaveTransform
    reverb: Reverb | None
    noise: AddedNoise | None
    mixed: MixedNoise | None
    frames: FrameSteps

    @property
    def num_clips(self) -> int:
        """B."""
        return len(self.transform.start)


@dataclasses.dataclass(frozen=True)
class Masks:
    """SpecAugment: which `frames` (B, N) and `bands` (B, F) of features are masked; None: none of any clip.

    Source: Park et al., "SpecAugment", Interspeech 2019, section 2.
    """

    frames: Tensor | None
    bands: Tensor | None

    def apply(self, features: Tensor) -> Tensor:
        """(B, 1, F, N) with masked frames and bands set to the clip's mean."""
        if self.frames is None and self.bands is None:
            return features
        mean = features.mean(dim=(2, 3), keepdim=True)
        if self.frames is not None:
            features = torch.where(self.frames[:, None, None, :], mean, features)
        if self.bands is not None:
            features = torch.where(self.bands[:, None, :, None], mean, features)
        return features


@dataclasses.dataclass(frozen=True)
class _DrawnClips:
    """What the sampler drew for B clips."""

    lengths: Ints
    transforms: TransformParameters
    rooms: Ints
    added: NoiseParameters
    mixed: NoiseParameters
    noise_transforms: TransformParameters

    def select(self, rows: slice) -> _DrawnClips:
        """Of these clips only."""
        return _DrawnClips(
            self.lengths[rows], self.transforms.select(rows), self.rooms[rows], self.added.select(rows),
            self.mixed.select(rows), self.noise_transforms.select(rows),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class BatchSteps:
    """The augmentation of a batch: of its clips, one part after the other, and of all their features."""

    parts: list[ClipSteps]
    masks: Masks


class AugmentationChain:
    """The augmentation steps of `settings`, then `features`.

    `noises` are int16 background recordings, copied to the device once; `samples` is the length of a clip.
    """

    def __init__(
        self, settings: FrontEndConfig, features: Features, seed: int, noises: Sequence[Pcm], samples: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._settings, self._features, self._samples, self._device = settings, features, samples, device
        self.sampler = AugmentationSampler(settings, seed, samples)
        self.bank = NoiseBank(noises, samples, device)
        self._implementation = implementation(device)
        self._settings_spec = features.spec
        self._rooms = torch.zeros(0, 1)
        if settings.reverb_probability > 0.0:
            self._rooms = self._room_spectra(room_responses(settings.reverb_seconds, seed, device))

    def with_features(self, features: Features) -> AugmentationChain:
        """The same steps, with equal parameters for each draw, and other features at the end.

        Shifts by frames and masks keep their length in seconds, and the widest band mask its share of the bands: the
        settings count them in frames and bands of this chain's features.
        """
        other = copy.copy(self)
        other._features = features
        return other

    def __call__(self, wave: Tensor, lengths: Ints, draws: Ints, epoch: int) -> Tensor:
        """Augmented features (B, 1, F, N) of waves (B, T), int16 or float.

        `lengths` (B,): how many samples of each row belong to the clip. `draws` (B,): draw numbers. T may exceed a
        clip's `samples`, because a faster clip needs more of the recording.
        """
        return self.apply(wave, to_device(self.draw(lengths, draws, epoch), self._device))

    def apply(self, wave: Tensor, steps: BatchSteps) -> Tensor:
        """Augmented features (B, 1, F, N) of waves (B, T) by steps that were drawn before; both are on the device."""
        return self.features_of(self.transformed(wave, steps), steps)

    def transformed(self, wave: Tensor, steps: BatchSteps) -> Iterator[Tensor]:
        """Only the steps on the wave: (B, T) -> float waves (b, samples), part by part."""
        waves = torch.split(wave, [part.num_clips for part in steps.parts])
        return (self._transform(part, own) for part, own in zip(waves, steps.parts, strict=True))

    def features_of(self, waves: Iterable[Tensor], steps: BatchSteps) -> Tensor:
        """The steps after those on the wave: the parts of `transformed` -> augmented features (B, 1, F, N)."""
        powers = (self._power(part, own) for part, own in zip(waves, steps.parts, strict=True))
        features = [self._features.scaled(self._features.mel_of_power(power)) for power in powers]
        return steps.masks.apply(torch.cat(features))

    def waves(self, wave: Tensor, lengths: Ints, draws: Ints, epoch: int) -> Tensor:
        """Only the steps on the wave: int16 or float (B, T) -> float (B, samples)."""
        (steps,) = self._clip_steps(lengths, draws, epoch, max(1, len(draws)))
        return self._transform(wave, to_device(steps, self._device))

    # --- drawing, on the host ---------------------------------------------------------------------------------

    def draw(self, lengths: Ints, draws: Ints, epoch: int) -> BatchSteps:
        """The steps of a batch, with their tensors on the host."""
        _, bands, frames = self._features.shape(self._samples)
        limit = self._implementation.clips_at_once or max(1, len(draws))
        return BatchSteps(self._clip_steps(lengths, draws, epoch, limit), self.masks(draws, epoch, bands, frames))

    def masks(self, draws: Ints, epoch: int, bands: int, frames: int) -> Masks:
        """The masks of features (B, 1, F, N), on the host."""
        settings, spec = self._settings, self._features.spec
        widest = round(settings.band_mask_bands * spec.bands / self._settings_spec.bands)
        longest = round(settings.time_mask_ms * SAMPLE_RATE_HZ / 1000 / spec.hop)

        def drawn(axis: str, count: int, most: int, size: int) -> Tensor | None:
            if not (count and most):
                return None
            return torch.from_numpy(self.sampler.masks(draws, epoch, axis, count, most, size))

        return Masks(
            drawn("frames", settings.time_masks, longest, frames),
            drawn("bands", settings.band_masks, widest, bands),
        )

    def _clip_steps(self, lengths: Ints, draws: Ints, epoch: int, limit: int) -> list[ClipSteps]:
        """The steps of the clips, `limit` clips at a time."""
        sampler = self.sampler
        drawn = _DrawnClips(
            lengths, self._in_own_frames(sampler.clip_transforms(draws, epoch, lengths)),
            sampler.room_indices(draws, epoch, len(self._rooms)), sampler.added_noise(draws, epoch),
            sampler.mixed_noise(draws, epoch), self._in_own_frames(sampler.noise_transforms(draws, epoch)),
        )  # fmt: skip
        if len(draws) <= limit:
            return [self._steps_of(drawn)]
        firsts = range(0, len(draws), limit)
        return [self._steps_of(drawn.select(slice(first, first + limit))) for first in firsts]

    def _in_own_frames(self, drawn: TransformParameters) -> TransformParameters:
        """With shifts in frames of these features instead of those that the settings count in."""
        of_settings, own = self._settings_spec.hop, self._features.spec.hop
        if own == of_settings:
            return drawn
        return dataclasses.replace(drawn, shift=np.rint(drawn.shift * of_settings / own).astype(np.int64))

    def _steps_of(self, drawn: _DrawnClips) -> ClipSteps:
        make, count = self._implementation, len(drawn.lengths)
        # The mixed-in noise is appended to the batch, so that it goes through the same steps as the clips.
        mixed = np.flatnonzero(drawn.mixed.applied) if self.bank.num_rows else np.zeros(0, np.int64)
        partner, own = np.full(count, -1), drawn.noise_transforms.select(mixed)
        partner[mixed] = count + np.arange(len(mixed))
        frames = self._features.shape(self._samples)[2]
        return ClipSteps(
            make.waves.from_parameters(drawn.transforms, drawn.lengths), self._reverb(drawn.rooms),
            self._added_noise(drawn.added), self._mixed_noise(drawn.mixed.position[mixed], own),
            make.frames.from_parameters(drawn.transforms.concatenate(own), partner, drawn.mixed.level, frames),
        )  # fmt: skip

    def _reverb(self, rooms: Ints) -> Reverb | None:
        applied = rooms >= 0
        return Reverb(row_numbers(applied), torch.from_numpy(rooms[applied])) if applied.any() else None

    def _added_noise(self, noise: NoiseParameters) -> AddedNoise | None:
        if not (self.bank.num_windows and noise.applied.any()):
            return None
        position, snr_db = noise.position[noise.applied], noise.level[noise.applied]
        starts = self.bank.window_starts((position * self.bank.num_windows).astype(np.int64))
        level = (10.0 ** (-snr_db / 20.0)).astype(np.float32)[:, None]
        return AddedNoise(row_numbers(noise.applied), torch.from_numpy(starts), torch.from_numpy(level))

    def _mixed_noise(self, position: Floats, transforms: TransformParameters) -> MixedNoise | None:
        if len(position) == 0:
            return None
        numbers = (position * self.bank.num_rows).astype(np.int64)
        transform = self._implementation.waves.from_parameters(transforms, np.full(len(position), self._samples))
        return MixedNoise(torch.from_numpy(numbers), transform)

    # --- applying, on the device ------------------------------------------------------------------------------

    def _transform(self, wave: Tensor, steps: ClipSteps) -> Tensor:
        """The steps on the wave: (B, T) -> float (B, samples)."""
        wave = steps.transform.apply(wave, self._samples)
        reverb, noise = steps.reverb, steps.noise
        if reverb:
            wave = apply_to_rows(wave, reverb.rows, lambda clips: self._with_reverb(clips, reverb.rooms))
        if noise:
            wave = apply_to_rows(wave, noise.rows, lambda clips: self._with_noise(clips, noise))
        return wave

    def _room_spectra(self, responses: Tensor) -> Tensor:
        """Spectra of the rooms' impulse responses (rooms, R), computed once.

        The transform's length is the power of two that holds clip and response together. (torchaudio's fftconvolve
        uses the sum of both lengths, which may be a prime, and transforms the responses at every call.)
        """
        spectra: Tensor = torch.fft.rfft(responses, n=1 << (self._samples + responses.shape[1] - 2).bit_length())
        return spectra

    def _with_reverb(self, clips: Tensor, rooms: Tensor) -> Tensor:
        """Clips convolved with their rooms' responses, at the level (RMS) that they had."""
        responses = self._rooms.index_select(0, rooms)
        length = 2 * (responses.shape[1] - 1)
        full: Tensor = torch.fft.irfft(torch.fft.rfft(clips, n=length) * responses, n=length)
        reverberant = full[:, : self._samples]
        return reverberant * (_rms(clips) / _rms(reverberant))

    def _with_noise(self, clips: Tensor, noise: AddedNoise) -> Tensor:
        # Not torchaudio's add_noise: it would divide by zero where a window of noise is silent.
        windows = self.bank.windows(noise.starts)
        return clips + windows * (_rms(clips) / _rms(windows) * noise.level)

    def _power(self, clips: Tensor, steps: ClipSteps) -> Tensor:
        """Power of the frames (B, N, K) of waves (B, samples): stretched, shifted, and mixed with noise."""
        if steps.mixed:
            noise = steps.mixed.transform.apply(self.bank.rows(steps.mixed.numbers), self._samples)
            clips = torch.cat([clips, noise])
        return steps.frames.power(self._features.spectrum(clips))


def _rms(wave: Tensor) -> Tensor:
    """Root mean square of each row, at least 1e-5: (B, T) -> (B, 1)."""
    return wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)
