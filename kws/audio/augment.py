"""Waveforms to augmented features: the chain that training clips go through, in batches, on the network's device.

    (B, T) -> gain, speed, shift -> reverberation -> added noise -> spectrum -> time stretch, frame shift
           -> mixed-in noise, transformed in the same way -> mel bands, log or decibels -> SpecAugment -> (B, 1, F, N)

kws/audio/augment_parameters.py draws the parameters of each step. On a CPU a few clips at a time go through the chain,
so that their data stays in its cache. A step that applies to none of them costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kws.audio import frames
from kws.audio.augment_parameters import AugmentationSampler, Floats, Ints, NoiseParameters, TransformParameters
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import Features
from kws.audio.frames import apply_to_rows, as_column
from kws.audio.noise import NoiseBank, room_responses
from kws.config import FrontEndConfig

_CPU_CLIPS = 16
"""Number of clips that go through the chain at once on a CPU."""


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
        self._rooms = torch.zeros(0, 1)
        if settings.reverb_probability > 0.0:
            self._rooms = self._room_spectra(room_responses(settings.reverb_seconds, seed, device))

    def __call__(self, wave: Tensor, lengths: Ints, draws: Ints, epoch: int) -> Tensor:
        """Augmented features (B, 1, F, N) of waves (B, T), int16 or float.

        `lengths` (B,): how many samples of each row belong to the clip. `draws` (B,): draw numbers. T may exceed a
        clip's `samples`, because a faster clip needs more of the recording.
        """
        transforms, mixed = self.sampler.clip_transforms(draws, epoch), self._mixed_noise(draws, epoch)
        noise_transforms = self.sampler.noise_transforms(draws, epoch)
        limit = _CPU_CLIPS if self._device.type == "cpu" else max(1, len(draws))
        parts = []
        for first in range(0, len(draws), limit):
            rows = np.arange(first, min(first + limit, len(draws)))
            part, own = wave[first : first + limit], transforms.select(rows)
            clips = self.waves(part, lengths[rows], draws[rows], epoch, own)
            power = self._power(clips, own, mixed.select(rows), noise_transforms.select(rows))
            parts.append(self._features.scaled(self._features.mel_of_power(power)))
        return self.mask(torch.cat(parts), draws, epoch)

    # --- waves ------------------------------------------------------------------------------------------------

    def waves(
        self, wave: Tensor, lengths: Ints, draws: Ints, epoch: int, transforms: TransformParameters | None = None
    ) -> Tensor:
        """Only the steps on the wave: int16 or float (B, T) -> float (B, samples).

        `transforms`: the sampler's clip_transforms, where the caller has them already.
        """
        transforms = transforms or self.sampler.clip_transforms(draws, epoch)
        wave = transform_waves(wave, lengths, transforms, self._samples)
        rooms = self.sampler.room_indices(draws, epoch, len(self._rooms))
        wave = apply_to_rows(wave, rooms >= 0, lambda clips, rows: self._with_reverb(clips, rooms[rows]))
        noise = self.sampler.added_noise(draws, epoch)
        applied = noise.applied & (self.bank.num_windows > 0)
        return apply_to_rows(
            wave, applied, lambda clips, rows: self._with_noise(clips, noise.position[rows], noise.level[rows])
        )

    def _room_spectra(self, responses: Tensor) -> Tensor:
        """Spectra of the rooms' impulse responses (rooms, R), computed once.

        The transform's length is the power of two that holds clip and response together. (torchaudio's fftconvolve
        uses the sum of both lengths, which may be a prime, and transforms the responses at every call.)
        """
        spectra: Tensor = torch.fft.rfft(responses, n=1 << (self._samples + responses.shape[1] - 2).bit_length())
        return spectra

    def _with_reverb(self, clips: Tensor, rooms: Ints) -> Tensor:
        """Clips convolved with their rooms' responses, at the level (RMS) that they had."""
        responses = self._rooms.index_select(0, torch.from_numpy(rooms).to(self._device))
        length = 2 * (responses.shape[1] - 1)
        full: Tensor = torch.fft.irfft(torch.fft.rfft(clips, n=length) * responses, n=length)
        reverberant = full[:, : self._samples]
        return reverberant * (_rms(clips) / _rms(reverberant))

    def _with_noise(self, clips: Tensor, position: Floats, snr_db: Floats) -> Tensor:
        # Not torchaudio's add_noise: it would divide by zero where a window of noise is silent.
        noise = self.bank.windows((position * self.bank.num_windows).astype(np.int64))
        return clips + noise * (_rms(clips) / _rms(noise) * as_column(10.0 ** (-snr_db / 20.0), clips))

    # --- spectra ----------------------------------------------------------------------------------------------

    def _mixed_noise(self, draws: Ints, epoch: int) -> NoiseParameters:
        noise = self.sampler.mixed_noise(draws, epoch)
        if self.bank.num_rows:
            return noise
        return NoiseParameters(np.zeros(len(draws), dtype=bool), noise.position, noise.level)

    def _power(
        self,
        clips: Tensor,
        transforms: TransformParameters,
        noise: NoiseParameters,
        noise_transforms: TransformParameters,
    ) -> Tensor:
        """Power of the frames (B, N, K) of waves (B, samples): stretched, shifted, and mixed with noise.

        The noise is appended to the batch, so that it goes through the same steps as the clips.
        """
        mixed = np.flatnonzero(noise.applied)
        partner, own = np.full(len(clips), -1), noise_transforms.select(mixed)
        partner[mixed] = len(clips) + np.arange(len(mixed))
        if len(mixed):
            rows = self.bank.rows((noise.position[mixed] * self.bank.num_rows).astype(np.int64))
            clips = torch.cat([clips, transform_waves(rows, np.full(len(mixed), self._samples), own, self._samples)])
        spectra = self._features.spectrum(clips)
        return frames.transformed_power(spectra, transforms.concatenate(own), partner, noise.level)

    # --- features ---------------------------------------------------------------------------------------------

    def mask(self, features: Tensor, draws: Ints, epoch: int) -> Tensor:
        """SpecAugment: features (B, 1, F, N) with masked frames and bands set to the clip's mean.

        Source: Park et al., "SpecAugment", Interspeech 2019, section 2.
        """
        settings = self._settings
        longest = round(settings.time_mask_ms * SAMPLE_RATE_HZ / 1000 / self._features.spec.hop)
        mean = features.mean(dim=(2, 3), keepdim=True) if settings.time_masks or settings.band_masks else features
        for axis, dim, count, most in (
            ("frames", 3, settings.time_masks, longest),
            ("bands", 2, settings.band_masks, settings.band_mask_bands),
        ):
            if count and most:
                masked = self.sampler.masks(draws, epoch, axis, count, most, features.shape[dim])
                place = torch.from_numpy(masked).to(features.device)
                features = torch.where(place[:, None, None, :] if dim == 3 else place[:, None, :, None], mean, features)
        return features


def transform_waves(wave: Tensor, lengths: Ints, transforms: TransformParameters, samples: int) -> Tensor:
    """Gain, speed and shift: int16 or float (B, T) -> float (B, samples).

    Output sample i is read at position start + i * step of the clip, which is the first `lengths` samples of its row,
    by linear interpolation as in numpy.interp; the last sample holds for one step. Outside the clip is silence.
    """
    implementation = transform_waves_compiled if wave.device.type == "cpu" else transform_waves_batched
    return implementation(wave, lengths, transforms, samples)


def transform_waves_compiled(wave: Tensor, lengths: Ints, transforms: TransformParameters, samples: int) -> Tensor:
    """transform_waves for CPUs, by kws.audio.kernels."""
    from kws.audio import kernels  # importing numba takes half a second: only where it is needed

    out = torch.empty(len(wave), samples)
    gain = transforms.gain * _scale(wave)
    kernels.transform_waves(wave.numpy(), lengths, gain, transforms.start, transforms.step, out.numpy())
    return out


def transform_waves_batched(wave: Tensor, lengths: Ints, transforms: TransformParameters, samples: int) -> Tensor:
    """transform_waves for GPUs, by tensor operations."""
    device = wave.device
    start, step, length = (
        torch.from_numpy(values).to(device)[:, None] for values in (transforms.start, transforms.step, lengths)
    )
    # Positions in float64: float32 is off by a thousandth of a sample at the end of a clip.
    position = torch.arange(samples, device=device, dtype=torch.float64) * step + start
    left = position.long().clamp_(0, wave.shape[1] - 1)
    right = torch.minimum(left + 1, (length - 1).clamp_min(0))
    before, after = wave.gather(1, left).float(), wave.gather(1, right).float()
    inside = (position >= 0) & (position < length)
    interpolated = torch.lerp(before, after, (position - left).float())
    return interpolated * inside * as_column(transforms.gain * _scale(wave), before)


def _scale(wave: Tensor) -> float:
    return 1.0 / 32768.0 if wave.dtype == torch.int16 else 1.0


def _rms(wave: Tensor) -> Tensor:
    """Root mean square of each row, at least 1e-5: (B, T) -> (B, 1)."""
    return wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)
