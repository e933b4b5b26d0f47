"""Which clip is where in a file: a random order of targets and distractors, at random times with gaps between them.

    numbers of the file's clips -> random order -> speech of each -> sorted uniform times, spread by speech and gaps

Times are in samples from the start of the file. Nothing is nearer than EDGE to its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kws import counter_rng
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.errors import UsageError
from kws.streaming.mixing.clips import ClipDraws
from kws.streaming.mixing.settings import MixSettings
from kws.streaming.mixing.speech import Speech

EDGE = round(1.5 * SAMPLE_RATE_HZ)
"""Samples without words at both ends of a file, so that a detector has audio before the first word and time for an
event after the last."""


class Placed(NamedTuple):
    """A clip in a file: its number among those of its kind (which keys its random numbers), its id, where its speech
    is in the clip, and the sample of the file at which that begins."""

    number: int
    is_target: bool
    clip: int
    speech: Speech
    at: int

    @property
    def end(self) -> int:
        """The sample of the file after the speech."""
        return self.at + self.speech.end - self.speech.start


def file_samples(settings: MixSettings) -> int:
    """Samples of each file."""
    return round(settings.hours * 3600 / settings.num_files * SAMPLE_RATE_HZ)


def place(settings: MixSettings, targets: ClipDraws, distractors: ClipDraws, file: int) -> list[Placed]:
    """The clips of a file, in order of time. Raises UsageError where they do not fit."""
    drawn = [
        (number, is_target, *draws.clip(number))
        for is_target, draws, per_hour in (
            (True, targets, settings.words_per_hour), (False, distractors, settings.distractors_per_hour),
        )
        for number in _numbers(settings, per_hour, file)
    ]  # fmt: skip
    order = counter_rng.permutation(len(drawn), "mix-order", settings.seed, file).tolist()
    drawn = [drawn[number] for number in order]
    starts = _starts(settings, [speech.end - speech.start for *_, speech in drawn], file)
    return [Placed(*item, at) for item, at in zip(drawn, starts, strict=True)]


def _numbers(settings: MixSettings, per_hour: float, file: int) -> range:
    """The numbers of the clips in a file, of all those of the streams."""
    total = round(per_hour * settings.hours)
    return range(total * file // settings.num_files, total * (file + 1) // settings.num_files)


def _starts(settings: MixSettings, lengths: Sequence[int], file: int) -> list[int]:
    gap, samples = round(settings.gap_s * SAMPLE_RATE_HZ), file_samples(settings)
    steps = np.array([length + gap for length in lengths], np.int64)
    spare = samples - 2 * EDGE - int(steps.sum()) + (gap if len(steps) else 0)
    if spare < 0:
        most = int(len(steps) * (samples - 2 * EDGE) / max(1, int(steps.sum())) / (samples / SAMPLE_RATE_HZ / 3600))
        raise UsageError(
            f"--words-per-hour {settings.words_per_hour:g} and --distractors {settings.distractors_per_hour:g}: so "
            f"many clips do not fit with gaps of {settings.gap_s:g} s; wanted at most about {most} in all, or a "
            "smaller --gap"
        )
    uniforms = counter_rng.uniforms(np.arange(len(steps)), 1, "mix-time", settings.seed, file)[:, 0]
    before = np.concatenate([[0], np.cumsum(steps)[:-1]]) if len(steps) else steps
    starts: list[int] = (EDGE + (np.sort(uniforms) * spare).astype(np.int64) + before).tolist()
    return starts
