"""A slot's forward and backward pass as one CUDA graph, which the host starts with a single call.

    inputs of a slot -> copied into the graph's own tensors -> replay -> gradients added to .grad, sums of the slot

A small network has several hundred kernels, and the host takes longer to start them than the GPU to run them: 20 ms
against 3 ms for a step of tc_resnet8 with 512 clips (H200). The kernels and their results are the same in a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kws.config import TrainConfig
from kws.errors import UsageError
from kws.transfers import replace_tensors, tensors_of

Compute = Callable[..., Tensor]
_WARM_UPS = 3
"""Passes before the capture, in which cuDNN and cuBLAS choose algorithms and allocate (torch's CUDA graph notes)."""


def can_capture(settings: TrainConfig, device: torch.device, wrapped: bool) -> bool:
    """Whether the passes of a slot are captured. `wrapped`: the network is in DDP or DeepSpeed, whose passes exchange
    gradients."""
    replaced = settings.compile or settings.gradient_checkpointing  # they manage kernels and random numbers themselves
    return settings.cuda_graphs and device.type == "cuda" and not wrapped and not replaced


class SlotGraph:
    """`compute` for inputs of one size. Its gradients are added to .grad, whose tensors must stay the same."""

    def __init__(self, compute: Compute, example: tuple[Any, ...]) -> None:
        """Captures compute(*example), after running it a few times; the caller undoes what these runs changed.

        `example`: tensors on the GPU, dataclasses of such tensors, and None. Raises UsageError where the passes cannot
        be captured.
        """
        self._inputs = replace_tensors(example, torch.clone)
        self._sizes = _sizes(example)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile, such as the one that pins the loader's batches.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._sums = compute(*self._inputs)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"train.cuda_graphs: the passes of this network cannot be captured ({reason}); use "
                "--set train.cuda_graphs=false"
            ) from error

    def fits(self, inputs: tuple[Any, ...]) -> bool:
        """Whether these inputs have the sizes of the example."""
        return _sizes(inputs) == self._sizes

    def __call__(self, inputs: tuple[Any, ...]) -> Tensor:
        """What `compute` returns for these inputs."""
        for own, given in zip(tensors_of(self._inputs), tensors_of(inputs), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._sums.clone()


def _sizes(inputs: tuple[Any, ...]) -> list[tuple[tuple[int, ...], torch.dtype]]:
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors_of(inputs)]
