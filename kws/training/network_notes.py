"""Notes at the start of a run: where the settings of a network for continuous audio do not fit that."""

from __future__ import annotations

import math

from torch import nn

from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import SPECS
from kws.config import Config
from kws.models.time_context import TimeNetwork


def network_notes(network: nn.Module, config: Config, frames: int) -> list[str]:
    """Lines for the user, each with what to type. `frames`: how many a training clip has."""
    if not (isinstance(network, TimeNetwork) and network.streams):
        return []
    spec, name = SPECS[config.frontend.features], config.model.name
    notes: list[str] = []
    if not spec.streams:
        notes.append(
            f"{name} can run on continuous audio frame by frame, but {config.frontend.features} are scaled by "
            "statistics of a whole clip: only as a sliding window; --set frontend.features=logmel40_stream would do"
        )
    if network.receptive_field > frames:
        needed = ((network.receptive_field - 1) * spec.hop + spec.window) / SAMPLE_RATE_HZ
        notes.append(
            f"{name} looks back {network.receptive_field} frames, and training clips have {frames}: in continuous "
            "audio it would use sound as it never had in training; use "
            f"--set data.clip_seconds={math.ceil(needed * 10) / 10:g} --set frontend.place=anywhere"
        )
    return notes
