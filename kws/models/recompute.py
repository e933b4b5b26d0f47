"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) that batch norm does not notice.

    forward    compute(inputs) -> output; only inputs and output are kept
    backward   compute(inputs) once more, for the activations in between, with the forward's random numbers

A batch norm updates its running statistics in every forward, so also in the second one; here they are updated once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A stretch of a network, written as `compute`, that is recomputed in the backward pass where
    `gradient_checkpointing` is set. Outputs, gradients and buffers are the same bits either way."""

    gradient_checkpointing: bool = False

    def compute(self, *inputs: Tensor) -> Tensor:
        """The stretch itself."""
        raise NotImplementedError

    def forward(self, *inputs: Tensor) -> Tensor:
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return self.compute(*inputs)
        if torch.compiler.is_compiling():
            # A compiled graph holds the update of a buffer apart from what is recomputed: once in any case.
            return checkpoint(self.compute, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return checkpoint(self.compute, *inputs, use_reentrant=False, context_fn=self._contexts)  # type: ignore[no-any-return]

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For the forward and for its recomputation."""
        return nullcontext(), _no_update(self)


@contextmanager
def _no_update(module: nn.Module) -> Iterator[None]:
    """Batch norms inside leave their running statistics as they are.

    By momentum 0 and another counter: without running statistics they would save fewer tensors for the backward pass
    than the first forward did, which `checkpoint` refuses. Looked up anew: SyncBatchNorm may have replaced them.
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
