"""The network of a run, as its settings want it: built, on the device, with recomputation and synchronised norms."""

from __future__ import annotations

import torch
from torch import nn

from kws import models
from kws.config import Config
from kws.distributed.ranks import Ranks
from kws.errors import UsageError


def build(config: Config, classes: int, shape: tuple[int, int, int], here: Ranks) -> nn.Module:
    """For `classes` classes of inputs (planes, F, N), with the same first weights on every rank.

    Raises UsageError where the settings do not fit the network, the input or the processes.
    """
    torch.manual_seed(config.train.seed)
    name, recomputes = config.model.name, config.train.gradient_checkpointing
    try:
        network = models.build(name, classes, shape).to(here.device)
    except UsageError as error:
        raise UsageError(f"model.name: {error}") from error
    if not models.set_gradient_checkpointing(network, recomputes) and recomputes:
        raise UsageError(f"train.gradient_checkpointing: {name} keeps what it needs; leave the setting out")
    return _synchronised(network, config.train.slots, here) if config.train.sync_batchnorm else network


def _synchronised(network: nn.Module, slots: int, here: Ranks) -> nn.Module:
    """Its batch norms over all slots of a step: those that run at the same moment must be all there are."""
    if here.device.type != "cuda" or here.world_size != slots:
        raise UsageError(
            f"train.sync_batchnorm: wants a GPU process for each of the {slots} slots, found {here.world_size} "
            f"on {here.device.type}; start {slots}, or leave the setting out"
        )
    found: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return found
