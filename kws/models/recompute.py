"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) that is correct with batch norm.

    forward    compute(inputs) -> output; only inputs and output are kept
    backward   compute(inputs) again, for the activations in between, with the same random numbers as in the forward

Batch norm would update its running statistics in both passes; here they are updated once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A part of a network, implemented as `compute`, that can be recomputed in the backward pass.

    It is recomputed where `gradient_checkpointing` is set. Outputs, gradients and buffers are bit-identical either way.
    """

    gradient_checkpointing: bool = False

    def compute(self, *inputs: Tensor) -> Tensor:
        """The computation of this part."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return self.compute(*inputs)
        if torch.compiler.is_compiling():
            # In a compiled graph, updates of buffers are not recomputed anyway.
            return checkpoint(self.compute, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return checkpoint(self.compute, *inputs, use_reentrant=False, context_fn=self._contexts)  # type: ignore[no-any-return]

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Context managers for the forward pass and for its recomputation."""
        return nullcontext(), _frozen_statistics(self)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """While the context is active, batch norms in `module` do not change their running statistics.

    This is done with momentum 0 and a copy of the counter. Without running statistics the layers would save fewer
    tensors for the backward pass than in the first forward pass, which `checkpoint` refuses.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, counter in kept:
        norm.momentum, norm.num_batches_tracked = 0.0, None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, momentum, counter in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter


def set_gradient_checkpointing(model: nn.Module, on: bool) -> bool:
    """Turns gradient checkpointing on or off in the parts of `model` that support it: less memory, more time.

    Results are bit-identical either way. Returns whether the model has such a part.
    """
    parts = [module for module in model.modules() if isinstance(module, Recomputable)]
    for part in parts:
        part.gradient_checkpointing = on
    return bool(parts)
