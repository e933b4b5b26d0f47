"""Gradient checkpointing changes memory and time; all results are bit-identical."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models import densenet
from kws.models.recompute import Recomputable, set_gradient_checkpointing
from kws.models.registry import build_model

SHAPE = (1, 16, 20)


def small_densenet(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return densenet.build_densenet(5, SHAPE, layers=(3, 3, 3), growth=6, small_stem=True, dropout=dropout)


def step(model: nn.Module, seed: int, bfloat16: bool = False) -> list[Tensor]:
    """Forward and backward; logits, gradients, buffers and the next random number."""
    torch.manual_seed(seed)
    x, y = torch.randn(4, *SHAPE), torch.arange(4)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(x)
    F.cross_entropy(logits.float(), y).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [logits.detach(), *gradients, *(b.clone() for b in model.buffers()), torch.rand(1)]


def assert_same_bits(kept: nn.Module, recomputed: nn.Module, steps: int = 3, bfloat16: bool = False) -> None:
    assert set_gradient_checkpointing(recomputed, True)
    for seed in range(steps):
        pairs = zip(step(kept, seed, bfloat16), step(recomputed, seed, bfloat16), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_outputs_gradients_and_buffers_are_bit_identical(dropout: float, bfloat16: bool) -> None:
    kept = small_densenet(dropout)
    assert_same_bits(kept, copy.deepcopy(kept), bfloat16=bfloat16)
    counters = [b for key, b in kept.named_buffers() if key.endswith("num_batches_tracked")]
    assert counters
    assert all(b == 3 for b in counters)


def _frozen(model: nn.Module) -> nn.Module:
    """As in a slot of one clip: batch norms use the running statistics, all else is in training mode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def _cumulative(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, which depends on the counter
    return model


def _unchanged(model: nn.Module) -> nn.Module:
    return model


@pytest.mark.parametrize("change", [_frozen, _cumulative, _unchanged])
def test_it_is_correct_in_every_batch_norm_mode(change: Callable[[nn.Module], nn.Module]) -> None:
    kept = change(small_densenet(0.2))
    assert_same_bits(kept, copy.deepcopy(kept))


def test_momentum_and_counter_are_restored_after_the_backward_pass() -> None:
    model = small_densenet()
    before = [(m.momentum, m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    set_gradient_checkpointing(model, True)
    step(model, 0)
    after = [(m.momentum, m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(before, after, strict=True))


def test_less_is_kept_for_the_backward_pass() -> None:
    """Counts each storage once that the graph saves or that recomputation needs."""

    def kept_bytes(on: bool) -> int:
        model, storages = small_densenet(), {}
        set_gradient_checkpointing(model, on)

        def note(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = (tensor.untyped_storage().nbytes(), tensor)
            return tensor

        for part in (m for m in model.modules() if on and isinstance(m, Recomputable)):
            part.register_forward_pre_hook(lambda _, inputs: [note(tensor) for tensor in inputs] and None)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.randn(4, *SHAPE))
        return sum(size for size, _ in storages.values())

    assert kept_bytes(True) < 0.8 * kept_bytes(False)


def test_nothing_is_recomputed_without_gradients() -> None:
    model, calls = small_densenet().eval(), []
    set_gradient_checkpointing(model, True)
    first = next(m for m in model.modules() if isinstance(m, Recomputable))
    first.norm.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.randn(2, *SHAPE))
    assert len(calls) == 1


def test_it_is_off_by_default_and_can_be_turned_off_again() -> None:
    model = small_densenet()
    parts = [m for m in model.modules() if isinstance(m, Recomputable)]
    assert not any(part.gradient_checkpointing for part in parts)
    set_gradient_checkpointing(model, True)
    assert all(part.gradient_checkpointing for part in parts)
    set_gradient_checkpointing(model, False)
    assert not any(part.gradient_checkpointing for part in parts)


@pytest.mark.parametrize(("name", "has"), [("resnet20", False), ("densenet_bc_100_12", True), ("densenet_121", True)])
def test_it_returns_whether_the_model_supports_it(name: str, has: bool) -> None:
    with torch.device("meta"):
        assert set_gradient_checkpointing(build_model(name), True) is has


@pytest.mark.slow
def test_compiled_it_gives_the_same_results() -> None:
    kept = small_densenet()
    recomputed = copy.deepcopy(kept)
    set_gradient_checkpointing(recomputed, True)
    compiled = torch.compile(recomputed, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        pairs = zip(step(kept, seed), step(compiled, seed), strict=True)
        for a, b in pairs:
            torch.testing.assert_close(a, b)
