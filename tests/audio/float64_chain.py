"""The front end in float64 on the CPU, one clip at a time, written down step by step: a reference for any device.

For the tests and for benchmarks/gpu.py. It shares with kws only the parameters of the augmentation, the impulse
responses and the mel filters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy  # scipy.signal is imported where it is used: it takes a worker 2 s
import torch

from kws.audio.augment_parameters import AugmentationSampler, Ints, TransformParameters
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import Features
from kws.audio.noise import NoiseBank, room_responses
from kws.config import FrontEndConfig

Floats = npt.NDArray[np.float64]
Frames = npt.NDArray[np.complex128]
_CPU = torch.device("cpu")


class Reference:
    """The chain `settings`, then the features `name`, in float64."""

    def __init__(self, settings: FrontEndConfig, name: str, seed: int, noises: Sequence[Pcm], samples: int) -> None:
        self._settings, self._samples = settings, samples
        self._features = Features(name).double()
        self._sampler = AugmentationSampler(settings, seed, samples)
        self._bank = NoiseBank(noises, samples, _CPU)
        self._rooms = room_responses(settings.reverb_seconds, seed, _CPU).double().numpy()

    def __call__(self, waves: Pcm, lengths: Ints, draws: Ints, epoch: int) -> torch.Tensor:
        """int16 (B, T) -> features, float64 (B, 1, F, N)."""
        self._draw(lengths, draws, epoch)
        power = np.stack([self._power(waves[row, : lengths[row]], row) for row in range(len(draws))])
        mel = self._features.mel_of_power(torch.from_numpy(power))
        return self._masked(self._features.scaled(mel), draws, epoch)

    def _draw(self, lengths: Ints, draws: Ints, epoch: int) -> None:
        """Draws the parameters of all clips."""
        sampler = self._sampler
        self._own = sampler.clip_transforms(draws, epoch, lengths)
        self._other = sampler.noise_transforms(draws, epoch)
        self._added, self._mixed = sampler.added_noise(draws, epoch), sampler.mixed_noise(draws, epoch)
        self._room = sampler.room_indices(draws, epoch, len(self._rooms))

    def _power(self, clip: Pcm, row: int) -> Floats:
        """Power of the frames of one clip, (N, K)."""
        wave = _transformed(clip / 32768.0, self._own, row, self._samples)
        frames = _moved(self._spectrum(self._with_noise(self._with_room(wave, row), row)), self._own, row)
        if self._mixed.applied[row]:
            number, share = int(self._mixed.position[row] * self._bank.num_rows), self._mixed.level[row]
            noise = self._bank.rows(torch.tensor([number])).double().numpy()[0]
            noise = _transformed(noise, self._other, row, self._samples)
            frames = (1.0 - share) * frames + share * _moved(self._spectrum(noise), self._other, row)
        return np.abs(frames) ** 2

    def _spectrum(self, wave: Floats) -> Frames:
        found: Frames = self._features.spectrum(torch.from_numpy(wave)[None])[0].numpy()
        return found + 0.0  # silence can have negative zeros (torch 2.11 with MKL), whose angle would be pi

    def _with_room(self, wave: Floats, row: int) -> Floats:
        if self._room[row] < 0:
            return wave
        reverberant = scipy.signal.fftconvolve(wave, self._rooms[self._room[row]])[: self._samples]
        return reverberant * (_rms(wave) / _rms(reverberant))

    def _with_noise(self, wave: Floats, row: int) -> Floats:
        if not self._added.applied[row]:
            return wave
        number = int(self._added.position[row] * self._bank.num_windows)
        start = torch.from_numpy(self._bank.window_starts(np.asarray([number])))
        window = self._bank.windows(start).double().numpy()[0]
        return wave + window * (_rms(wave) / _rms(window) * 10.0 ** (-self._added.level[row] / 20.0))

    def _masked(self, features: torch.Tensor, draws: Ints, epoch: int) -> torch.Tensor:
        settings, spec = self._settings, self._features.spec
        longest = round(settings.time_mask_ms * SAMPLE_RATE_HZ / 1000 / spec.hop)
        mean = features.mean(dim=(2, 3), keepdim=True)
        for axis, dim, count, most in (
            ("frames", 3, settings.time_masks, longest),
            ("bands", 2, settings.band_masks, settings.band_mask_bands),
        ):
            if count and most:
                place = torch.from_numpy(self._sampler.masks(draws, epoch, axis, count, most, features.shape[dim]))
                features = torch.where(place[:, None, None, :] if dim == 3 else place[:, None, :, None], mean, features)
        return features


def _transformed(wave: Floats, transforms: TransformParameters, row: int, samples: int) -> Floats:
    """Gain, speed and shift of one clip, to `samples` samples."""
    position = transforms.start[row] + transforms.step[row] * np.arange(samples)
    inside = (position >= 0) & (position < len(wave))
    interpolated: Floats = np.interp(position, np.arange(len(wave)), wave)
    return transforms.gain[row] * interpolated * inside


def _moved(frames: Frames, transforms: TransformParameters, row: int) -> Frames:
    """Phase vocoder and frame shift of one clip, (N, K)."""
    wanted, rate, shift = len(frames), transforms.rate[row], int(transforms.shift[row])
    if rate != 1.0:
        frames = _stretched(frames, rate)
    count, moved = len(frames), np.zeros_like(frames)
    moved[max(0, shift) : count + min(0, shift)] = frames[max(0, -shift) : count - max(0, shift)]
    return np.pad(moved, ((0, max(0, wanted - count)), (0, 0)))[:wanted]


def _stretched(frames: Frames, rate: float) -> Frames:
    """Phase vocoder with interpolated magnitudes (N, K); one output frame after the other, as librosa does it."""
    padded, phase, output = np.pad(frames, ((0, 2), (0, 0))), np.angle(frames[0]), []
    for position in np.arange(0, len(frames), rate):
        left, right = padded[int(position)], padded[int(position) + 1]
        weight = position % 1.0
        output.append(((1.0 - weight) * np.abs(left) + weight * np.abs(right)) * np.exp(1j * phase))
        phase = phase + np.angle(right) - np.angle(left)
    return np.stack(output)


def _rms(wave: Floats) -> float:
    return max(float(np.sqrt(np.mean(wave**2))), 1e-5)


@dataclasses.dataclass(frozen=True)
class Sounds:
    """Clips (int16), with their lengths, and noise recordings."""

    waves: Pcm
    lengths: Ints
    noises: list[Pcm]


def sounds(count: int, samples: int, room: int) -> Sounds:
    """Tones, sweeps, clicks and noise at several levels and lengths, int16 (count, room)."""
    numbers, time = np.random.default_rng(3), np.arange(samples) / samples
    waves, lengths = np.zeros((count, room), np.int16), np.zeros(count, np.int64)
    for row in range(count):
        hiss, level = numbers.standard_normal(samples), 10.0 ** numbers.uniform(2.0, 4.0)
        clicks = hiss * (np.arange(samples) % 3000 < 40)
        tone, sweep = (np.sin(2 * np.pi * (100 + 61 * row % 3000) * time * rise) for rise in (1.0, time))
        clip = level * (hiss, tone + 0.03 * hiss, sweep + 0.01 * hiss, clicks + 0.001 * hiss)[row % 4]
        lengths[row] = samples if row % 3 else numbers.integers(samples // 3, samples)
        waves[row, : lengths[row]] = clip[: lengths[row]].clip(-32768, 32767)
    noises = [(numbers.standard_normal(5 * samples // 2) * level).astype(np.int16) for level in (300, 3000)]
    return Sounds(waves, lengths, noises)
