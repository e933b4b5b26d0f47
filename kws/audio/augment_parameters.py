"""What happens to which clip: every step's parameters, drawn from numbers. Free of torch.

(seed, epoch, draw number, name of the step) -> applied or not, and how. By draw and not by clip, so the repeats of a
rare word differ; not by rank or batch, so the same draw is the same everywhere.
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
NOTHING = np.float32(1e-9)
"""What the phase vocoder adds to real parts: an exact zero has a phase then (0) and can be divided by, and its power,
1e-18, is far under the 1e-10 that decibels begin at."""


@dataclasses.dataclass(frozen=True)
class Course:
    """The steps that a clip goes through, and the noise that is mixed into its spectrogram too. Every array (B,)."""

    gain: Floats
    """Factor on the samples."""
    start: Floats
    """Where in the clip playing begins, in samples; before it and behind the clip is silence."""
    step: Floats
    """Samples of the clip that a sample of the output goes on by."""
    rate: Floats
    """Of the phase vocoder; 1 leaves the frames as they are, 2 halves their number."""
    shift: Ints
    """Frames that the spectrogram moves to a later time."""

    @property
    def stretches(self) -> Flags:
        """Whether the phase vocoder has work to do."""
        does: Flags = self.rate != 1.0
        return does

    @staticmethod
    def joined(one: Course, other: Course) -> Course:
        """The clips of one, then those of the other."""
        names = [field.name for field in dataclasses.fields(Course)]
        return Course(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in names))

    def take(self, rows: Ints) -> Course:
        """Some of the draws."""
        return Course(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class Noise:
    """Background noise for a batch of draws, every array (B,)."""

    chosen: Flags
    place: Floats
    """Where in the bank, in [0, 1)."""
    level: Floats
    """Ratio of clip to noise in dB, or the noise's share of the spectrogram."""

    def take(self, rows: Ints) -> Noise:
        """Of some of the draws."""
        return Noise(self.chosen[rows], self.place[rows], self.level[rows])


class Chance:
    """The parameters of every step for the draws of an epoch, as the settings say, for clips of `samples` samples."""

    def __init__(self, settings: FrontEndConfig, seed: int, samples: int) -> None:
        self._settings, self._seed, self._samples = settings, seed, samples

    def course(self, draws: Ints, epoch: int, of: str = "") -> Course:
        """What a clip goes through; `of="noise."` what the noise mixed into its frames does."""
        settings, mixed = self._settings, bool(of)
        gain = self._between(draws, epoch, f"{of}amplitude", settings.amplitude, 1.0)
        length = 1.0 + self._swing(draws, epoch, f"{of}speed", settings.speed)
        step, start = 1.0 / length, np.zeros(len(draws))
        rate = 1.0 + self._swing(draws, epoch, f"{of}stretch", settings.stretch)
        if settings.speed_about == "middle":
            start = (self._samples - 1) / 2 * (1.0 - step)
        if not mixed:  # what is done to noise are the steps of the seed's chain alone
            gain = gain * 10.0 ** (self._swing(draws, epoch, "volume", settings.volume_db) / 20.0)
            start = start - np.rint(self.moved_ms(draws, epoch) * SAMPLE_RATE_HZ / 1000.0) * step
        return Course(gain, start, step, rate, self._frame_shift(draws, epoch, of))

    def moved_ms(self, draws: Ints, epoch: int) -> Floats:
        """How much later a clip's wave comes, (B,); to whole samples."""
        return self._swing(draws, epoch, "shift", self._settings.shift_ms)

    def noise(self, draws: Ints, epoch: int) -> Noise:
        """Noise on the wave: its level is the ratio of clip to noise in dB."""
        return self._noise(draws, epoch, "noise", self._settings.noise_snr_db)

    def mix(self, draws: Ints, epoch: int) -> Noise:
        """Noise in the spectrogram: its level is its share."""
        return self._noise(draws, epoch, "mix", (0.0, self._settings.mix))

    def rooms(self, draws: Ints, epoch: int, count: int) -> Ints:
        """Which of `count` rooms a draw is heard in, (B,); -1 for none."""
        chosen, place = self._drawn(draws, epoch, "reverb", 1)
        return np.where(chosen, (place[:, 0] * count).astype(np.int64), -1)

    def hidden(self, draws: Ints, epoch: int, name: str, count: int, most: int, size: int) -> Flags:
        """Which of `size` places `count` spans of 0..most places cover, (B, size)."""
        drawn = counter_rng.uniforms(draws, 2 * count, "augment", self._seed, epoch, name)
        width = np.floor(drawn[:, :count] * (min(most, size) + 1))
        start = np.floor(drawn[:, count:] * (size - width + 1))
        place = np.arange(size)
        inside = (place >= start[..., None]) & (place < (start + width)[..., None])
        covered: Flags = inside.any(axis=1)
        return covered

    def _frame_shift(self, draws: Ints, epoch: int, of: str) -> Ints:
        chosen, drawn = self._drawn(draws, epoch, f"{of}frame_shift", 1)
        most = self._settings.frame_shift
        return np.where(chosen, np.floor(drawn[:, 0] * (2 * most + 1)).astype(np.int64) - most, 0)

    def _noise(self, draws: Ints, epoch: int, name: str, levels: tuple[float, float]) -> Noise:
        chosen, drawn = self._drawn(draws, epoch, name, 2)
        return Noise(chosen, drawn[:, 0], levels[0] + (levels[1] - levels[0]) * drawn[:, 1])

    def _swing(self, draws: Ints, epoch: int, name: str, most: float) -> Floats:
        """Between -most and most where the step is applied, else 0, (B,)."""
        return self._between(draws, epoch, name, (-most, most), 0.0)

    def _between(self, draws: Ints, epoch: int, name: str, limits: tuple[float, float], rest: float) -> Floats:
        chosen, drawn = self._drawn(draws, epoch, name, 1)
        return np.where(chosen, limits[0] + (limits[1] - limits[0]) * drawn[:, 0], rest)

    def _drawn(self, draws: Ints, epoch: int, name: str, count: int) -> tuple[Flags, Floats]:
        """Whether the step is applied, (B,), and `count` numbers in [0, 1) for it, (B, count)."""
        probability = float(getattr(self._settings, f"{name.rpartition('.')[2]}_probability"))
        if probability == 0.0:
            return np.zeros(len(draws), dtype=bool), np.zeros((len(draws), count))
        drawn = counter_rng.uniforms(draws, 1 + count, "augment", self._seed, epoch, name)
        return drawn[:, 0] < probability, drawn[:, 1:]
