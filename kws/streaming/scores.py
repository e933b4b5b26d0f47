"""What a scorer of continuous audio gives: probabilities of all classes, each with its time. Free of torch.

chunks of samples -> Scorer -> Scores -> Detector (kws/streaming/events.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Scores(NamedTuple):
    """M score vectors.

    times (M,) float64: seconds from the start of the recording to the end of the audio that a score depends on.
    probabilities (M, C) float32, softmax over all classes.
    """

    times: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float32]


class Scorer(Protocol):
    """Scores of a recording whose samples come in chunks of any size. Before the first sample there is digital
    silence."""

    classes: Sequence[str]
    step_s: float
    """Seconds between scores."""

    def push(self, pcm: npt.NDArray[np.int16]) -> Scores:
        """The scores that these samples (n,), at 16 kHz, complete."""

    def finish(self) -> Scores:
        """The scores whose frames needed samples after the end: zeros follow. The scorer cannot be used after it."""


def no_scores(num_classes: int) -> Scores:
    """No score of `num_classes` classes."""
    return Scores(np.zeros(0), np.zeros((0, num_classes), np.float32))


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of one or more parts, in order."""
    return Scores(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
