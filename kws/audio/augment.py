"""Waveform to varied features: what training clips go through, in batches, where the network runs.

    (B, T) -> amplitude, volume, speed, shift -> room -> noise at a ratio -> spectrum -> stretch, frame shift
           -> noise that went the same way, in the spectrum -> mel, decibels or log -> masks -> (B, 1, F, N)

The parameters are drawn in kws/audio/augment_parameters.py. On a CPU a few clips at a time go through the chain, so
that their data stays in its cache. A step that applies to none of them costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kws.audio import frames
from kws.audio.augment_parameters import Chance, Course, Floats, Ints, Noise
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import Features
from kws.audio.frames import changed, column
from kws.audio.noise import NoiseBank, rooms
from kws.config import FrontEndConfig

_CPU_CLIPS = 16
"""Clips that a CPU takes through the chain at once."""


class Augment:
    """The chain with its steps from `settings`; `noises` are int16 recordings, held on the device once."""

    def __init__(
        self, settings: FrontEndConfig, features: Features, seed: int, noises: Sequence[Pcm], samples: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._settings, self._features, self._samples, self._device = settings, features, samples, device
        self.chance = Chance(settings, seed, samples)
        self.bank = NoiseBank(noises, samples, device)
        reverb = settings.reverb_probability > 0.0
        self._rooms = self._room_spectra(rooms(settings.reverb_seconds, seed, device)) if reverb else torch.zeros(0, 1)

    def __call__(self, wave: Tensor, lengths: Ints, draws: Ints, epoch: int) -> Tensor:
        """int16 or float samples (B, T), how many of each row are the clip's, and draw numbers, (B,) each -> features
        (B, 1, F, N). T may be more than a clip's samples: speed may need them."""
        course, mix = self.chance.course(draws, epoch), self._mix(draws, epoch)
        course_of_noise = self.chance.course(draws, epoch, "noise.")
        limit = _CPU_CLIPS if self._device.type == "cpu" else max(1, len(draws))
        found = []
        for first in range(0, len(draws), limit):
            rows = np.arange(first, min(first + limit, len(draws)))
            part = wave[first : first + limit]
            clips = self.wave(part, lengths[rows], draws[rows], epoch, course.take(rows))
            power = self._power(clips, course.take(rows), mix.take(rows), course_of_noise.take(rows))
            found.append(self._features.scaled(self._features.mel_of_power(power)))
        return self.mask(torch.cat(found), draws, epoch)

    # --- the wave ---------------------------------------------------------------------------------------------

    def wave(self, wave: Tensor, lengths: Ints, draws: Ints, epoch: int, course: Course | None = None) -> Tensor:
        """The steps on the wave alone: int16 or float (B, T) -> float (B, samples)."""
        course = course or self.chance.course(draws, epoch)
        wave = played(wave, lengths, course, self._samples)
        where = self.chance.rooms(draws, epoch, len(self._rooms))
        wave = changed(wave, where >= 0, lambda clips, rows: self._in_rooms(clips, where[rows]))
        noise = self.chance.noise(draws, epoch)
        heard = noise.chosen & (self.bank.windows > 0)
        return changed(wave, heard, lambda clips, rows: self._with_noise(clips, noise.place[rows], noise.level[rows]))

    def _room_spectra(self, responses: Tensor) -> Tensor:
        """(rooms, R) -> transforms as long as clip and room together, a power of two: torchaudio's fftconvolve takes
        the sum itself, which may be a prime, and the rooms anew each time."""
        spectra: Tensor = torch.fft.rfft(responses, n=1 << (self._samples + responses.shape[1] - 2).bit_length())
        return spectra

    def _in_rooms(self, clips: Tensor, where: Ints) -> Tensor:
        """Convolved with the rooms' responses, as loud as before."""
        responses = self._rooms.index_select(0, torch.from_numpy(where).to(self._device))
        length = 2 * (responses.shape[1] - 1)
        whole: Tensor = torch.fft.irfft(torch.fft.rfft(clips, n=length) * responses, n=length)
        heard = whole[:, : self._samples]
        return heard * (_rms(clips) / _rms(heard))

    def _with_noise(self, clips: Tensor, place: Floats, snr_db: Floats) -> Tensor:
        # Not torchaudio's add_noise: a silent window of noise would make it divide by zero.
        noise = self.bank.window((place * self.bank.windows).astype(np.int64))
        return clips + noise * (_rms(clips) / _rms(noise) * column(10.0 ** (-snr_db / 20.0), clips))

    # --- the spectrum -----------------------------------------------------------------------------------------

    def _mix(self, draws: Ints, epoch: int) -> Noise:
        mix = self.chance.mix(draws, epoch)
        return mix if self.bank.rows else Noise(np.zeros(len(draws), dtype=bool), mix.place, mix.level)

    def _power(self, clips: Tensor, course: Course, mix: Noise, course_of_noise: Course) -> Tensor:
        """Waves (B, samples) -> power of the frames (B, N, K), stretched, shifted and mixed with rows of the bank that
        went the same way."""
        mixed = np.flatnonzero(mix.chosen)
        partner, way = np.full(len(clips), -1), course_of_noise.take(mixed)
        partner[mixed] = len(clips) + np.arange(len(mixed))
        if len(mixed):
            noise = self.bank.row((mix.place[mixed] * self.bank.rows).astype(np.int64))
            clips = torch.cat([clips, played(noise, np.full(len(mixed), self._samples), way, self._samples)])
        spectra = self._features.spectrum(clips)
        return frames.moved_power(spectra, Course.joined(course, way), partner, mix.level)

    # --- the features -----------------------------------------------------------------------------------------

    def mask(self, features: Tensor, draws: Ints, epoch: int) -> Tensor:
        """Features (B, 1, F, N) -> the same with masked frames and bands at the clip's mean.

        Source: Park et al., "SpecAugment", Interspeech 2019, section 2.
        """
        settings = self._settings
        longest = round(settings.time_mask_ms * SAMPLE_RATE_HZ / 1000 / self._features.spec.hop)
        filler = features.mean(dim=(2, 3), keepdim=True) if settings.time_masks or settings.band_masks else features
        for name, dim, count, most in (
            ("frames", 3, settings.time_masks, longest),
            ("bands", 2, settings.band_masks, settings.band_mask_bands),
        ):
            if count and most:
                hidden = self.chance.hidden(draws, epoch, name, count, most, features.shape[dim])
                place = torch.from_numpy(hidden).to(features.device)
                features = torch.where(
                    place[:, None, None, :] if dim == 3 else place[:, None, :, None], filler, features
                )
        return features


def played(wave: Tensor, lengths: Ints, course: Course, samples: int) -> Tensor:
    """int16 or float (B, T), of which the first `lengths` of each row are the clip -> float (B, samples): from `start`
    on by `step`, by linear interpolation as numpy's `interp` (its last sample holds for one step), silence outside."""
    way = compiled_play if wave.device.type == "cpu" else batched_play
    return way(wave, lengths, course, samples)


def compiled_play(wave: Tensor, lengths: Ints, course: Course, samples: int) -> Tensor:
    """played by kws.audio.kernels, for CPUs."""
    from kws.audio import kernels  # numba takes half a second to import: for those who need it

    out = torch.empty(len(wave), samples)
    kernels.play(wave.numpy(), lengths, course.gain * _scale(wave), course.start, course.step, out.numpy())
    return out


def batched_play(wave: Tensor, lengths: Ints, course: Course, samples: int) -> Tensor:
    """played by operations on whole batches, for GPUs."""
    device = wave.device
    start, step, length = (
        torch.from_numpy(values).to(device)[:, None] for values in (course.start, course.step, lengths)
    )
    # Places in float64: float32 is off by a thousandth of a sample at the end of a clip.
    place = torch.arange(samples, device=device, dtype=torch.float64) * step + start
    low = place.long().clamp_(0, wave.shape[1] - 1)
    high = torch.minimum(low + 1, (length - 1).clamp_min(0))
    before, behind = wave.gather(1, low).float(), wave.gather(1, high).float()
    inside = (place >= 0) & (place < length)
    return torch.lerp(before, behind, (place - low).float()) * inside * column(course.gain * _scale(wave), before)


def _scale(wave: Tensor) -> float:
    return 1.0 / 32768.0 if wave.dtype == torch.int16 else 1.0


def _rms(wave: Tensor) -> Tensor:
    """(B, T) -> (B, 1), never 0."""
    return wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)
