"""Makes the scorer of a trained network for continuous audio: the sliding window, or its streaming form."""

from __future__ import annotations

from typing import Literal

from kws.audio.codec import SAMPLE_RATE_HZ
from kws.evaluation.trained import ScoredNetwork
from kws.streaming.network import NetworkScorer, can_stream
from kws.streaming.scores import Scorer
from kws.streaming.window import WindowScorer, step_frames

Form = Literal["auto", "window", "stream"]
"""window: the whole network on the last window every hop_ms. stream: each frame once, with the
states of the layers. auto: stream where the network and its features allow it, else window."""

HOP_MS = 100.0
"""Default time between the scores of a sliding window."""


def make_scorer(trained: ScoredNetwork, form: Form = "auto", hop_ms: float = HOP_MS) -> Scorer:
    """A scorer for one recording; each recording needs its own. `hop_ms` is the time between the scores of a sliding
    window, rounded to whole frames; a streaming network computes a score at each step of its stride.

    Raises UsageError where form is "stream" and the network cannot be streamed, and for a hop_ms that is not above 0
    or longer than a window.
    """
    if uses_stream(trained, form):
        return NetworkScorer(trained)
    return WindowScorer(trained, hop_ms)


def scorer_notes(trained: ScoredNetwork, form: Form = "auto", hop_ms: float = HOP_MS) -> list[str]:
    """Lines for the user about what `make_scorer` changes: a time between scores that is rounded."""
    if uses_stream(trained, form):
        return [] if hop_ms == HOP_MS else [f"hop_ms {hop_ms:g} is not used: a streaming network has its own stride"]
    frame_ms = 1000 * trained.features.spec.hop / SAMPLE_RATE_HZ
    step_ms = step_frames(trained, hop_ms) * frame_ms
    if step_ms == hop_ms:
        return []
    return [
        f"a score every {step_ms:g} ms instead of {hop_ms:g}: frames of {trained.features.name} are {frame_ms:g} ms "
        "apart"
    ]


def uses_stream(trained: ScoredNetwork, form: Form) -> bool:
    """Whether `make_scorer` makes a NetworkScorer, and not a WindowScorer."""
    return form == "stream" or (form == "auto" and can_stream(trained))
