"""A trained network, loaded from a run folder: settings, classes, features and weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kws.audio.features import Features
from kws.config import Config
from kws.corpus import tasks
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.errors import UsageError, unreadable
from kws.models import registry
from kws.run import folder as run_folder
from kws.run.checkpoint import Checkpoint, Checkpoints


class ScoredNetwork(Protocol):
    """A network with what is needed to score audio: a Trained, or the network that is being trained."""

    @property
    def config(self) -> Config: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def features(self) -> Features: ...
    @property
    def samples(self) -> int: ...
    @property
    def classes(self) -> Sequence[str]: ...


class Trained:
    """`network` (in eval mode) and `features` on `device`, for the clips of `samples` samples that `excerpt` takes.

    `classes` are those of `task`; `unknown` are the corpus's words that were trained as the class `unknown`.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, device: torch.device) -> None:
        self.config, self.checkpoint, self.device = config, checkpoint, device
        self.task = tasks.from_state(checkpoint.state, checkpoint.path)
        self.classes = self.task.classes
        self.unknown = frozenset(filter(self.task.is_other, checkpoint.state["words"]))
        self.excerpt = Excerpt.from_config(config.data)
        self.samples = self.excerpt.samples
        self.features = Features(config.frontend.features, checkpoint.state.get("normal")).to(device)
        shape = self.features.shape(self.samples)
        self.network: nn.Module = registry.build_model(config.model.name, len(self.classes), shape).to(device)
        averaged = checkpoint.ema()
        self.weights = "model" if averaged is None else "ema"
        """Which of the checkpoint's weights these are: the averaged ones ("ema") are used where it has them."""
        self.network.load_state_dict(checkpoint.model() if averaged is None else averaged)
        self.network.eval()

    @classmethod
    def from_run(cls, run: Path, checkpoint: str, device: torch.device) -> Trained:
        """Loads a checkpoint of a run. Raises UsageError where there is no such run folder or complete checkpoint."""
        return cls(run_folder.read_config(run), Checkpoints(run).find(checkpoint), device)


def check_corpus(index: Index, checkpoint: Checkpoint, fix: str) -> None:
    """Raises UsageError, which ends with `fix`, where the checkpoint was trained on another corpus."""
    trained_on = checkpoint.state["corpus_id"]
    if index.content_id != trained_on:
        raise UsageError(
            f"{index.root}: this is corpus {index.content_id}, but {checkpoint.path} was trained on {trained_on}; {fix}"
        )


def initial_weights(
    path: Path, wanted: Mapping[str, Tensor], head: Collection[str], classes: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights for `train.init`, from a run folder (its best checkpoint) or a .safetensors file.

    Returns those that fit `wanted` by name and shape, and the names in `wanted` that found none. The weights named in
    `head` are not taken from a run with other classes: its outputs mean other words. Raises UsageError where `path`
    cannot be read, and where nothing fits.
    """
    if path.is_dir():
        checkpoint = Checkpoints(path).find("best_accuracy")
        found = checkpoint.ema() or checkpoint.model()
        if tuple(checkpoint.state["classes"]) != tuple(classes):
            found = {name: value for name, value in found.items() if name not in head}
    else:
        try:
            found = safetensors.torch.load_file(path)
        except OSError as error:
            raise unreadable(error, f"train.init: {path}", "wanted a run folder or a .safetensors file") from error
        except safetensors.SafetensorError as error:
            raise UsageError(
                f"train.init: {path} cannot be read ({error}); wanted a run folder or a .safetensors file"
            ) from error
    kept = {name: value for name, value in found.items() if name in wanted and value.shape == wanted[name].shape}
    if not kept:
        raise UsageError(f"train.init: no weight in {path} fits; wanted weights of the same model.name")
    return kept, [name for name in wanted if name not in kept]
