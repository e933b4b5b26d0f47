"""Exponential moving average (EMA) of the weights, which often scores better than the weights themselves.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM 1992.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Averages a network's parameters. Buffers, such as running statistics, are not averaged."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self._average = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after update `step` (from 0). At first the decay is lower, (1 + step) / (10 + step), so
        that the random initial weights fade quickly."""
        decay = min(self._decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._network.parameters()], 1.0 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the with block the network has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """A state dict that the network can load: averaged weights, the network's own buffers."""
        names = [name for name, _ in self._network.named_parameters()]
        return {**self._network.state_dict(), **dict(zip(names, self._average, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads the averages from `state_dict`; the buffers in it are not used."""
        for (name, _), average in zip(self._network.named_parameters(), self._average, strict=True):
            average.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for p, average in zip(self._network.parameters(), self._average, strict=True):
            own = p.detach().clone()
            p.copy_(average)
            average.copy_(own)
