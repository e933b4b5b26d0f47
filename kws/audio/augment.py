"""Variation of the training clips, in batches, where the network runs.

    float (B, T) -> shift and speed -> gain -> background noise -> [features] -> SpecAugment masks

What happens to a clip hangs on (seed, epoch, draw number, name of the step) and nothing else: not on the rank, the
batch it is in, or what ran before. By draw and not by clip, so the repeats of a rare word differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws import keyed
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.config import FrontEndConfig


class Augment:
    """The steps with their ranges from `settings`; `noises` are int16 recordings, held on the device once."""

    def __init__(
        self, settings: FrontEndConfig, seed: int, noises: Sequence[Pcm], samples: int, device: torch.device
    ) -> None:
        self._settings, self._seed, self._samples, self._device = settings, seed, samples, device
        usable = [noise for noise in noises if len(noise) >= samples]
        self._bank = torch.from_numpy(np.concatenate(usable)).to(device) if usable else None
        # Windows that lie inside one recording: how many start in each, and where each recording starts.
        self._windows = np.cumsum([len(noise) - samples + 1 for noise in usable])
        self._starts = np.cumsum([0] + [len(noise) for noise in usable])

    def wave(self, wave: Tensor, draws: npt.NDArray[np.int64], epoch: int) -> Tensor:
        """Float samples (B, T) and their draw numbers (B,) -> varied samples (B, T)."""
        settings = self._settings
        shift, speed, gain = self._between(draws, epoch, "wave", 3).T
        wave = _resample(wave, shift * settings.shift_ms * SAMPLE_RATE_HZ / 1000, 1.0 + speed * settings.speed)
        wave = wave * _column(10.0 ** (gain * settings.gain_db / 20.0), wave)
        return wave if self._bank is None else self._add_noise(wave, draws, epoch, self._bank)

    def mask(self, features: Tensor, draws: npt.NDArray[np.int64], epoch: int) -> Tensor:
        """Features (B, 1, F, N) -> the same with masked frames and bands at the clip's mean.

        Source: Park et al., "SpecAugment", Interspeech 2019, section 2.
        """
        settings = self._settings
        filler = features.mean(dim=(2, 3), keepdim=True)
        for name, dim, count, most in (
            ("frames", 3, settings.time_masks, settings.time_mask_frames),
            ("bands", 2, settings.band_masks, settings.band_mask_bands),
        ):
            if count and most:
                hidden = self._spans(draws, epoch, name, count, most, features.shape[dim])
                features = torch.where(
                    hidden[:, None, None, :] if dim == 3 else hidden[:, None, :, None], filler, features
                )
        return features

    def _between(self, draws: npt.NDArray[np.int64], epoch: int, name: str, count: int) -> npt.NDArray[np.float64]:
        """Numbers in [-1, 1), (B, count)."""
        return keyed.uniforms(draws, count, "augment", self._seed, epoch, name) * 2.0 - 1.0

    def _spans(self, draws: npt.NDArray[np.int64], epoch: int, name: str, count: int, most: int, size: int) -> Tensor:
        """Which of `size` places `count` spans of 0..most places cover, (B, size) bool."""
        drawn = keyed.uniforms(draws, 2 * count, "augment", self._seed, epoch, name)
        width = np.floor(drawn[:, :count] * (min(most, size) + 1))
        start = np.floor(drawn[:, count:] * (size - width + 1))
        place = np.arange(size)
        inside = (place >= start[..., None]) & (place < (start + width)[..., None])
        return torch.from_numpy(inside.any(axis=1)).to(self._device)

    def _add_noise(self, wave: Tensor, draws: npt.NDArray[np.int64], epoch: int, bank: Tensor) -> Tensor:
        """Mixes a window of the bank in, at a random ratio of the clip's power to the noise's, in some of the draws."""
        settings = self._settings
        chosen, place, level = keyed.uniforms(draws, 3, "augment", self._seed, epoch, "noise").T
        rows = np.flatnonzero(chosen < settings.noise_probability)
        if len(rows) == 0:
            return wave
        window = (place[rows] * self._windows[-1]).astype(np.int64)
        which = np.searchsorted(self._windows, window, side="right")
        start = self._starts[which] + window - np.concatenate([[0], self._windows])[which]
        span = torch.arange(self._samples, device=self._device)
        noise = bank[torch.from_numpy(start).to(self._device)[:, None] + span].float() / 32768.0
        low, high = settings.noise_snr_db
        at = torch.from_numpy(rows).to(self._device)
        clip = wave[at]
        scale = _rms(clip) / _rms(noise) * _column(10.0 ** (-(low + (high - low) * level[rows]) / 20.0), wave)
        return wave.index_copy(0, at, clip + noise * scale)


def _column(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(like.device)[:, None]


def _rms(wave: Tensor) -> Tensor:
    """(B, T) -> (B, 1), never 0."""
    return wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)


def _resample(wave: Tensor, shift: npt.NDArray[np.float64], rate: npt.NDArray[np.float64]) -> Tensor:
    """Plays (B, T) at `rate` about the clip's middle, moved by `shift` samples; linear interpolation, zeros outside."""
    samples = wave.shape[1]
    middle = (samples - 1) / 2
    steps = torch.arange(samples, device=wave.device, dtype=torch.float32)
    source = (steps - middle - _column(shift, wave)) * _column(rate, wave) + middle
    # One zero before and two behind, so that every place outside reads silence.
    padded = torch.nn.functional.pad(wave, (1, 2))
    source = source.clamp(-1.0, float(samples)) + 1.0
    left = source.floor()
    index = left.long()
    low = padded.gather(1, index)
    return low + (source - left) * (padded.gather(1, index + 1) - low)
