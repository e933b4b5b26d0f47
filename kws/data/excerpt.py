"""Which part of a recording is its clip: one rule for packing, training, evaluation and prediction.

    recording as long as a clip    itself
    shorter recording              itself, then zeros
    longer recording               the part that data.excerpt chooses: the loudest, the first or the middle

The loudest part is that with the highest sum of levels. A level is the RMS of 10 ms, less the recording's noise floor;
amplitudes are added, not energies, so that a click of a few ms counts less than a word. Usually many windows hold all
of the loud part: of those that have nearly the highest sum, the middle one is taken, so that the word is not at the
edge. All sums are of integers, so the result is the same on every processor.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kws.audio.codec import SAMPLE_RATE_HZ, Pcm, clip_samples
from kws.config import DataConfig, ExcerptRule
from kws.errors import UsageError

TOLERANCE = SAMPLE_RATE_HZ // 100
"""A recording that is longer than a clip by at most so many samples (10 ms, as from rounding at resampling) is not
reported as longer."""
_HOP = SAMPLE_RATE_HZ // 100
_FLOOR_PERCENT, _NEARLY_PERCENT = 20, 95
"""The noise floor is this percentile of the levels. Windows whose sum is this much of the highest hold the word too."""
Levels = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Excerpt:
    """The clip of a recording: `samples` samples, chosen by `rule` where the recording is longer."""

    samples: int
    rule: ExcerptRule = "loudest"

    @classmethod
    def from_config(cls, data: DataConfig) -> Excerpt:
        """The excerpt of a run. Raises UsageError for data.clip_seconds = "auto", which TrainingSet replaces."""
        if data.clip_seconds == "auto":
            raise UsageError("data.clip_seconds: found auto, wanted the number that the run took from its corpus")
        return cls(clip_samples(data.clip_seconds), data.excerpt)

    def start(self, pcm: Pcm) -> int:
        """The first sample of the clip in a recording, int16 (T,); 0 where it is not longer than a clip."""
        spare = len(pcm) - self.samples
        if spare <= 0 or self.rule == "start":
            return 0
        return spare // 2 if self.rule == "middle" else _loudest_start(pcm, self.samples)

    def of(self, pcm: Pcm) -> Pcm:
        """The clip of a recording: int16 (T,) -> (samples,), with zeros at the end of a shorter recording."""
        start = self.start(pcm)
        part = pcm[start : start + self.samples]
        return part if len(part) == self.samples else np.pad(part, (0, self.samples - len(part)))

    @property
    def part(self) -> str:
        """The part of a longer recording, for the user: "the loudest 1 s"."""
        seconds = self.samples / SAMPLE_RATE_HZ
        return f"the {'first' if self.rule == 'start' else self.rule} {seconds:g} s"


def _loudest_start(pcm: Pcm, samples: int) -> int:
    """The first sample of the loudest window of a recording that is longer than the window."""
    levels = _levels(pcm)
    width = min(max(1, round(samples / _HOP)), len(levels))
    # Windows may begin before the recording and end after it, so that the middle one is found near its ends too.
    sums = np.cumsum(np.pad(levels, (width + 1, width)))
    windows = sums[width:] - sums[:-width]
    best = int(windows.argmax())
    others = np.flatnonzero(windows * 100 < windows[best] * _NEARLY_PERCENT)
    at = int(np.searchsorted(others, best))  # the run of good windows around the best lies between these two
    first = int(others[at - 1]) + 1 if at else 0
    last = int(others[at]) - 1 if at < len(others) else len(windows) - 1
    middle = (first + last - 2 * width) * _HOP // 2
    return min(max(middle, 0), len(pcm) - samples)


def _levels(pcm: Pcm) -> Levels:
    """The levels of a recording above its noise floor, (T // 160,)."""
    levels = frame_levels(pcm)
    above: Levels = np.maximum(levels - noise_floor(levels), 0)
    return above


def noise_floor(levels: Levels) -> int:
    """The noise floor of a recording from its levels."""
    place = len(levels) * _FLOOR_PERCENT // 100
    return int(np.partition(levels, place)[place])


def frame_levels(pcm: Pcm) -> Levels:
    """RMS of each 10 ms without its mean, in int16 steps: int16 (T,) -> (T // 160,), at least one."""
    usable = len(pcm) // _HOP * _HOP
    frames = (pcm[:usable] if usable else np.resize(pcm, _HOP)).reshape(-1, _HOP).astype(np.float64)
    # Exact: sums of integers below 2^53, whatever the order in which a processor adds them.
    variance = np.einsum("ij,ij->i", frames, frames) - frames.sum(axis=1) ** 2 / _HOP
    levels: Levels = np.sqrt(np.maximum(variance, 0.0) / _HOP).astype(np.int64)
    return levels
