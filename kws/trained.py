"""A trained network as a run folder holds it: settings, classes, front end and weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from kws import models, runfolder
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import Features
from kws.checkpoint import Checkpoint, Checkpoints
from kws.config import Config


class Trained:
    """`network` (in eval mode) and `features` on `device`, for clips of `samples` samples of `classes`."""

    def __init__(self, config: Config, checkpoint: Checkpoint, device: torch.device) -> None:
        self.config, self.checkpoint, self.device = config, checkpoint, device
        self.classes: tuple[str, ...] = tuple(checkpoint.state["classes"])
        self.samples = round(config.data.clip_seconds * SAMPLE_RATE_HZ)
        self.features = Features(config.frontend.features, checkpoint.state.get("normal")).to(device)
        shape = self.features.shape(self.samples)
        self.network: nn.Module = models.build(config.model.name, len(self.classes), shape).to(device)
        self.network.load_state_dict(checkpoint.model())
        self.network.eval()

    @classmethod
    def from_run(cls, run: Path, checkpoint: str, device: torch.device) -> Trained:
        """Raises UsageError where `run` is no run folder or has no such whole checkpoint."""
        return cls(runfolder.read_config(run), Checkpoints(run).named(checkpoint), device)
