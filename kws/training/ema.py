"""An exponential moving average of the weights, which often scores better than the weights themselves.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM 1992.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Of a network's parameters; its buffers (running statistics) are the network's own."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network, self._decay = network, decay
        self._average = [p.detach().clone() for p in network.parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After update `step` (from 0). At first it looks back less far, so that the first random weights fade."""
        decay = min(self._decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._network.parameters()], 1.0 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the averaged weights meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """A state dict that the network loads: averaged weights, its own buffers."""
        names = [name for name, _ in self._network.named_parameters()]
        return {**self._network.state_dict(), **dict(zip(names, self._average, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """From `state_dict`; its buffers are not used."""
        for (name, _), average in zip(self._network.named_parameters(), self._average, strict=True):
            average.copy_(state[name])

    @torch.no_grad()
    def _swap(self) -> None:
        for p, average in zip(self._network.parameters(), self._average, strict=True):
            own = p.detach().clone()
            p.copy_(average)
            average.copy_(own)
