"""Augmentation parameters of each draw: which steps are applied to it, and with which values. Free of torch.

    (seed, epoch, draw number, step name) -> counter-based RNG -> applied or not, and the step's values

The values depend on the draw, not on the clip, so the repeats of a rare word differ. They do not depend on the rank or
on the batch, so a draw gets the same values on any number of processes. kws/audio/augment.py applies them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.config import FrontEndConfig

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
PHASE_EPSILON = np.float32(1e-9)
"""The phase vocoder adds this to real parts, so that an exact zero has a phase (0) and can be divided by. Its power,
1e-18, is far below 1e-10, the least power that the decibel scale distinguishes."""


@dataclasses.dataclass(frozen=True)
class TransformParameters:
    """How waves and their spectrograms are changed, for a batch of B; every array is (B,)."""

    gain: Floats
    """Factor on the samples."""
    start: Floats
    """Position in the clip, in samples, that becomes the first output sample; outside the clip is silence."""
    step: Floats
    """Distance in the clip, in samples, between two output samples; 1 keeps the speed."""
    rate: Floats
    """Rate of the phase vocoder; 1 keeps the frames as they are, 2 halves their number."""
    shift: Ints
    """Number of frames by which the spectrogram is moved to a later time."""

    @property
    def is_stretched(self) -> Flags:
        """Where the phase vocoder changes anything, (B,)."""
        stretched: Flags = self.rate != 1.0
        return stretched

    def concatenate(self, other: TransformParameters) -> TransformParameters:
        """These parameters, then those of `other`."""
        names = [field.name for field in dataclasses.fields(self)]
        return TransformParameters(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in names))

    def select(self, rows: Ints | slice) -> TransformParameters:
        """The parameters of these rows of the batch."""
        return TransformParameters(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class NoiseParameters:
    """Which background noise is added to a batch of B; every array is (B,)."""

    applied: Flags
    position: Floats
    """Position of the noise in the bank, in [0, 1)."""
    level: Floats
    """Signal-to-noise ratio in dB, or the share of the noise in the spectrogram."""

    def select(self, rows: Ints | slice) -> NoiseParameters:
        """The parameters of these rows of the batch."""
        return NoiseParameters(self.applied[rows], self.position[rows], self.level[rows])


class AugmentationSampler:
    """Draws the parameters of every augmentation step, for clips of `samples` samples.

    Each method takes draw numbers (B,) and the epoch, and returns arrays of B rows.
    """

    def __init__(self, settings: FrontEndConfig, seed: int, samples: int) -> None:
        self._settings, self._seed, self._samples = settings, seed, samples

    @property
    def places(self) -> bool:
        """Whether recordings that are shorter than a clip lie at a random place of it."""
        return self._settings.place == "anywhere"

    def clip_transforms(self, draws: Ints, epoch: int, lengths: Ints | None = None) -> TransformParameters:
        """Parameters of the clips themselves, whose recordings have `lengths` samples (B,); None: as long as clips."""
        found = self._transforms(draws, epoch, "")
        gain = found.gain * 10.0 ** (self._symmetric(draws, epoch, "volume", self._settings.volume_db) / 20.0)
        start = found.start
        if self.places and lengths is not None:
            start = self._placed(draws, epoch, lengths, found)
        start = start - np.rint(self.shift_ms(draws, epoch) * SAMPLE_RATE_HZ / 1000.0) * found.step
        return dataclasses.replace(found, gain=gain, start=start)

    def _placed(self, draws: Ints, epoch: int, lengths: Ints, found: TransformParameters) -> Floats:
        """TransformParameters.start of clips at a random place of the training clip, where they are shorter than it."""
        spare = np.floor(self._samples - lengths / found.step)
        place = np.floor(counter_rng.uniforms(draws, 1, "augment", self._seed, epoch, "place")[:, 0] * (spare + 1.0))
        return np.where(spare > 0.0, -place * found.step, found.start)

    def noise_transforms(self, draws: Ints, epoch: int) -> TransformParameters:
        """Parameters of the noise that is mixed into the spectrograms: amplitude, speed, stretch and frame shift."""
        return self._transforms(draws, epoch, "noise.")

    def shift_ms(self, draws: Ints, epoch: int) -> Floats:
        """How much later the clip comes in its wave, before rounding to samples, (B,)."""
        return self._symmetric(draws, epoch, "shift", self._settings.shift_ms)

    def added_noise(self, draws: Ints, epoch: int) -> NoiseParameters:
        """Noise added to the wave; its level is the signal-to-noise ratio in dB."""
        return self._noise(draws, epoch, "noise", self._settings.noise_snr_db)

    def mixed_noise(self, draws: Ints, epoch: int) -> NoiseParameters:
        """Noise mixed into the spectrogram; its level is its share."""
        return self._noise(draws, epoch, "mix", (0.0, self._settings.mix))

    def room_indices(self, draws: Ints, epoch: int, count: int) -> Ints:
        """Which of `count` rooms the clip is convolved with, (B,); -1 for none."""
        applied, values = self._sample(draws, epoch, "reverb", 1)
        return np.where(applied, (values[:, 0] * count).astype(np.int64), -1)

    def masks(self, draws: Ints, epoch: int, axis: str, count: int, longest: int, size: int) -> Flags:
        """Union of `count` masks of 0 to `longest` places on an axis of `size` places, (B, size).

        `axis` ("frames" or "bands") is a part of the random numbers' key.
        """
        values = counter_rng.uniforms(draws, 2 * count, "augment", self._seed, epoch, axis)
        width = np.floor(values[:, :count] * (min(longest, size) + 1))
        start = np.floor(values[:, count:] * (size - width + 1))
        place = np.arange(size)
        inside = (place >= start[..., None]) & (place < (start + width)[..., None])
        masked: Flags = inside.any(axis=1)
        return masked

    def _transforms(self, draws: Ints, epoch: int, prefix: str) -> TransformParameters:
        """The steps that clips and mixed noise share; `prefix` heads the step names in the random numbers' key."""
        settings = self._settings
        gain = self._uniform(draws, epoch, f"{prefix}amplitude", settings.amplitude, 1.0)
        step = 1.0 / (1.0 + self._symmetric(draws, epoch, f"{prefix}speed", settings.speed))
        start = np.zeros(len(draws))
        if settings.speed_about == "middle":
            start = (self._samples - 1) / 2 * (1.0 - step)
        rate = 1.0 + self._symmetric(draws, epoch, f"{prefix}stretch", settings.stretch)
        return TransformParameters(gain, start, step, rate, self._frame_shift(draws, epoch, prefix))

    def _frame_shift(self, draws: Ints, epoch: int, prefix: str) -> Ints:
        applied, values = self._sample(draws, epoch, f"{prefix}frame_shift", 1)
        most = self._settings.frame_shift
        return np.where(applied, np.floor(values[:, 0] * (2 * most + 1)).astype(np.int64) - most, 0)

    def _noise(self, draws: Ints, epoch: int, step: str, levels: tuple[float, float]) -> NoiseParameters:
        applied, values = self._sample(draws, epoch, step, 2)
        return NoiseParameters(applied, values[:, 0], levels[0] + (levels[1] - levels[0]) * values[:, 1])

    def _symmetric(self, draws: Ints, epoch: int, step: str, most: float) -> Floats:
        """Uniform in [-most, most) where the step is applied, else 0, (B,)."""
        return self._uniform(draws, epoch, step, (-most, most), 0.0)

    def _uniform(self, draws: Ints, epoch: int, step: str, limits: tuple[float, float], otherwise: float) -> Floats:
        applied, values = self._sample(draws, epoch, step, 1)
        return np.where(applied, limits[0] + (limits[1] - limits[0]) * values[:, 0], otherwise)

    def _sample(self, draws: Ints, epoch: int, step: str, count: int) -> tuple[Flags, Floats]:
        """Whether the step is applied, (B,), and `count` uniform numbers in [0, 1) for its values, (B, count)."""
        probability = float(getattr(self._settings, f"{step.rpartition('.')[2]}_probability"))
        if probability == 0.0:
            return np.zeros(len(draws), dtype=bool), np.zeros((len(draws), count))
        values = counter_rng.uniforms(draws, 1 + count, "augment", self._seed, epoch, step)
        return values[:, 0] < probability, values[:, 1:]
