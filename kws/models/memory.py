"""Estimates the activation memory of training: the tensors that autograd keeps from one forward pass.

Accuracy (float32, one thread; compared with torch's memory profiler, peak of all tensors of a step without weights and
optimizer state): the peak was 1.00 (densenet_bc_100_12, resnet32), 1.02 (kwt_1), 1.10 (wrn_28_10), 1.14
(matchboxnet_3x2x64) and 1.21 times (tc_resnet8) the estimate. On a CPU the process itself grew by 1.2 to 2.0 times the
estimate, because oneDNN reorders tensors and glibc fragments memory: resnet32 with 512 clips by 1,531 MB (estimate
1,244 MB), matchboxnet_3x2x64 by 484 MB (247 MB).
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from kws.models.recompute import Recomputable


def activation_bytes(model: nn.Module, in_shape: tuple[int, int, int], clips: int, kind: torch.dtype) -> int:
    """Bytes that autograd keeps for the backward pass of a batch of `clips` clips (in_channels, F, N).

    `kind`: torch.float32, or the dtype of autocast. A copy of the model runs forward on the CPU with 2 and with 4
    clips, from which the bytes per clip and the constant bytes follow. Not included: parameters, temporary memory of a
    layer, and gradients of activations, of which few exist at a time.
    """
    own = copy.deepcopy(model).cpu().train()
    with torch.random.fork_rng(devices=[]):
        two, four = (_kept_bytes(own, torch.zeros(count, *in_shape)) for count in (2, 4))
    whole = two + (four - two) * (clips - 2) // 2
    if kind is torch.float32:
        return whole
    # Autocast keeps half of it, and a copy of each weight. Not run: a CPU that emulates bf16 took minutes for
    # wrn_28_10. What autocast keeps was 0 to 6 % more for image networks, 12 % for kwt_3 (layer norms are in float32).
    return whole // 2 + 2 * sum(p.numel() for p in model.parameters() if p.dim() > 1)


def _kept_bytes(model: nn.Module, inputs: Tensor) -> int:
    known = {tensor.untyped_storage().data_ptr() for tensor in itertools.chain(model.parameters(), model.buffers())}
    # References to the storages, so that none is freed and its address used again while counting.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    for module in model.modules():
        if (
            isinstance(module, Recomputable) and module.gradient_checkpointing
        ):  # it keeps its inputs outside of autograd
            module.register_forward_pre_hook(lambda _, given: [keep(tensor) for tensor in given] and None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = nn.functional.cross_entropy(model(inputs), torch.zeros(len(inputs), dtype=torch.int64))
    found = sum(storage.nbytes() for storage in kept.values())
    del loss
    return found
