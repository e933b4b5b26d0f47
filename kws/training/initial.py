"""What a new run starts from, and what a resumed run may start from: initial weights, normalisation, the same plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from kws.audio.features import BandStatistics, Features
from kws.data import normalisation
from kws.data.store import CacheSettings
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.evaluation import trained
from kws.models import registry
from kws.training.state import TrainState


def measure_normalisation(training_set: TrainingSet) -> BandStatistics:
    """Mean and deviation of each feature band over the train split; rank 0 only, so that all ranks use the same."""
    config = training_set.config
    cache_settings = CacheSettings.from_config(config.data)
    return normalisation.load_or_measure(
        training_set.index, config.frontend.features, training_set.excerpt, cache_settings
    )


def load_initial_weights(training_set: TrainingSet, network: nn.Module, features: Features) -> str:
    """Loads the weights that fit from the run or file that train.init names. Returns a message with their number.

    Raises UsageError where nothing fits.
    """
    config, classes = training_set.config, training_set.task.classes
    in_shape, initial = features.shape(training_set.samples), network.state_dict()
    head = registry.head_tensor_names(config.model.name, len(classes), in_shape)
    found, missing = trained.initial_weights(Path(config.train.init), initial, head, classes)
    network.load_state_dict(initial | found)
    rest = f"; initialised anew: {', '.join(missing)}" if missing else ""
    return f"{config.train.init}: {len(found)} of {len(initial)} tensors loaded{rest}"


def refuse_other_plan(run: Path, training_set: TrainingSet, state: TrainState) -> None:
    """Raises UsageError where the plan is not the one that the run began with: its counts and orders come from numpy's
    generators, which another version of numpy may change."""
    epoch = state.planned_epoch
    if state.planned and training_set.plan(epoch).digest != state.planned:
        raise UsageError(
            f"{run}: numpy {np.__version__} draws another plan for epoch {epoch + 1} than the run had; "
            f"install the numpy that {run}/run.json names, or --run ANOTHER_FOLDER for a new run"
        )
