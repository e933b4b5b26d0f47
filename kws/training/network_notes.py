"""Notes at the start of a run: settings that do not suit a network for continuous audio."""

from __future__ import annotations

import math

from torch import nn

from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import SPECS
from kws.config import Config
from kws.models.time_context import TimeNetwork


def network_notes(network: nn.Module, config: Config, frames: int) -> list[str]:
    """Lines for the user, each with the settings that would fit. `frames`: number of frames of a training clip."""
    if not (isinstance(network, TimeNetwork) and network.streams):
        return []
    spec, name = SPECS[config.frontend.features], config.model.name
    notes: list[str] = []
    if not spec.streams:
        notes.append(
            f"{name} can run on continuous audio frame by frame, but {config.frontend.features} features are scaled by "
            "statistics of a whole clip, which allows a sliding window only; use "
            "--set frontend.features=logmel40_stream"
        )
    if network.receptive_field > frames:
        needed = ((network.receptive_field - 1) * spec.hop + spec.window) / SAMPLE_RATE_HZ
        notes.append(
            f"{name} has a receptive field of {network.receptive_field} frames, and training clips have {frames}: in "
            "continuous audio it would see more of the past than in training; use "
            f"--set data.clip_seconds={math.ceil(needed * 10) / 10:g} --set frontend.place=anywhere"
        )
    return notes
