"""A trained network as a run folder holds it: settings, classes, front end and weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kws import models
from kws.audio.codec import clip_samples
from kws.audio.features import Features
from kws.config import Config
from kws.corpus import tasks
from kws.errors import UsageError
from kws.run import folder as run_folder
from kws.run.checkpoint import Checkpoint, Checkpoints


class Trained:
    """`network` (in eval mode) and `features` on `device`, for clips of `samples` samples of `classes`, those of
    `task`. `unknown`: the corpus's words that the network learned to call so."""

    def __init__(self, config: Config, checkpoint: Checkpoint, device: torch.device) -> None:
        self.config, self.checkpoint, self.device = config, checkpoint, device
        self.task = tasks.from_state(checkpoint.state, checkpoint.path)
        self.classes = self.task.classes
        self.unknown = frozenset(filter(self.task.is_other, checkpoint.state["words"]))
        self.samples = clip_samples(config.data.clip_seconds)
        self.features = Features(config.frontend.features, checkpoint.state.get("normal")).to(device)
        shape = self.features.shape(self.samples)
        self.network: nn.Module = models.build(config.model.name, len(self.classes), shape).to(device)
        averaged = checkpoint.ema()
        self.weights = "model" if averaged is None else "ema"
        """Which of the checkpoint's weights these are: averaged ones, where there are any, are preferred."""
        self.network.load_state_dict(checkpoint.model() if averaged is None else averaged)
        self.network.eval()

    @classmethod
    def from_run(cls, run: Path, checkpoint: str, device: torch.device) -> Trained:
        """Raises UsageError where `run` is no run folder or has no such whole checkpoint."""
        return cls(run_folder.read_config(run), Checkpoints(run).find(checkpoint), device)


def matching(
    path: Path, wanted: Mapping[str, Tensor], head: Collection[str], classes: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Of the weights of a run folder (its best) or a .safetensors file those that fit `wanted` by name and shape, and
    the names that found none. The `head` of a run with other classes fits never: its numbers mean other words. Raises
    UsageError where there are none, or none fits."""
    if path.is_dir():
        checkpoint = Checkpoints(path).find("best_accuracy")
        found = checkpoint.ema() or checkpoint.model()
        if tuple(checkpoint.state["classes"]) != tuple(classes):
            found = {name: value for name, value in found.items() if name not in head}
    else:
        try:
            found = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(
                f"train.init: {path} cannot be read ({error}); wanted a run folder or a .safetensors file"
            ) from error
    kept = {name: value for name, value in found.items() if name in wanted and value.shape == wanted[name].shape}
    if not kept:
        raise UsageError(f"train.init: nothing in {path} fits; wanted weights of the same model.name")
    return kept, [name for name in wanted if name not in kept]
