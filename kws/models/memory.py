"""How much memory a training keeps: what autograd holds of one forward pass, counted where it is stored.

How near it comes (float32, one thread, against the peak of all tensors of a step above weights and optimizer, by the
memory profiler of torch): tensors took 1.00 (densenet_bc_100_12, resnet32), 1.02 (kwt_1), 1.10 (wrn_28_10), 1.14
(matchboxnet_3x2x64) and 1.21 times (tc_resnet8) what is counted here. The process itself grew by 1.2 to 2.0 times as
much on a CPU, where oneDNN reorders and glibc leaves gaps: resnet32 at 512 clips 1,531 MB for 1,244,
matchboxnet_3x2x64 484 for 247.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import Tensor, nn

from kws.models.recompute import Recomputable


def activation_bytes(model: nn.Module, in_shape: tuple[int, int, int], clips: int, kind: torch.dtype) -> int:
    """Bytes that autograd keeps for the backward pass of a batch of `clips` clips (planes, F, N), without parameters.

    `kind`: torch.float32, or what autocast computes in. A copy of the model runs forward on the CPU with 2 and with 4
    clips; what a clip adds is scaled to `clips`, what is there anyway counts once. Not in it: what a layer needs while
    it works, and gradients of activations, of which a few are there at a time.
    """
    own = copy.deepcopy(model).cpu().train()
    with torch.random.fork_rng(devices=[]):
        two, four = (_kept_bytes(own, torch.zeros(count, *in_shape), kind) for count in (2, 4))
    return two + (four - two) * (clips - 2) // 2


def _kept_bytes(model: nn.Module, inputs: Tensor, kind: torch.dtype) -> int:
    known = {tensor.untyped_storage().data_ptr() for tensor in itertools.chain(model.parameters(), model.buffers())}
    # Held until the end, so that no storage is freed and its address given to another.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    for module in model.modules():
        if isinstance(module, Recomputable) and module.gradient_checkpointing:  # keeps its inputs past autograd
            module.register_forward_pre_hook(lambda _, given: [keep(tensor) for tensor in given] and None)
    cast = torch.autocast("cpu", kind, enabled=kind is not torch.float32)
    with cast, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(inputs)
        loss = nn.functional.cross_entropy(logits.float(), torch.zeros(len(inputs), dtype=torch.int64))
    found = sum(storage.nbytes() for storage in kept.values())
    del loss
    return found
