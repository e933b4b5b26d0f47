"""What training does to a network of any family: memory layouts, DDP, torch.compile."""

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kws.distributed.arithmetic import full_float32
from kws.models.registry import build_model
from tests.conftest import require
from tests.models.test_registry import FAMILIES, FAST_FAMILIES, SHAPE, first_of, small

pytestmark = pytest.mark.filterwarnings("ignore:.*broadcast_buffers.*")
LABELS = torch.arange(4) % 3
COMPILED = ("ds_cnn",)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _one_process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def gradients(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    F.cross_entropy(model(x), LABELS).backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAST_FAMILIES)
def test_channels_last_computes_the_same(family: str) -> None:
    # In float64, because in float32 norms of small batches amplify rounding errors from 1e-6 to some 1e-3.
    plain, x = without_dropout(small(family, 3)).double(), torch.randn(4, *SHAPE).double()
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    wanted, found = gradients(plain, x), gradients(other, x.to(memory_format=torch.channels_last))
    assert wanted.keys() == found.keys()
    norm = torch.sqrt(sum(value.square().sum() for value in wanted.values()))
    for key, value in wanted.items():
        assert (found[key] - value).norm() < 1e-9 * norm, key


@pytest.mark.usefixtures("_one_process_group")
@pytest.mark.parametrize("family", FAST_FAMILIES)
def test_ddp_gets_a_gradient_for_every_parameter(family: str) -> None:
    """Without find_unused_parameters, a parameter without a gradient makes the next forward pass fail."""
    model = DistributedDataParallel(small(family, 3), broadcast_buffers=False)
    for _ in range(3):
        F.cross_entropy(model(torch.randn(4, *SHAPE)), LABELS).backward()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    "family",  # compiling takes 30 to 90 s of a core for each
    [pytest.param(name, marks=pytest.mark.slow if name in COMPILED else pytest.mark.heavy) for name in FAMILIES],
)
def test_torch_compile_computes_the_same(family: str) -> None:
    torch.compiler.reset()
    plain, x = without_dropout(small(family, 3)), torch.randn(4, *SHAPE)
    other = copy.deepcopy(plain)
    wanted = gradients(plain, x)
    other.compile()
    found = gradients(other, x)
    norm = torch.sqrt(sum(value.square().sum() for value in wanted.values()))
    for key, value in wanted.items():
        assert (found[key] - value).norm() < 1e-2 * norm, key


NONDETERMINISTIC = (
    "AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool3D", "CtcLoss", "Cumsum", "EmbeddingBag", "FractionalMaxPool",
    "GridSampler", "MaxPool3D", "MaxUnpool", "NllLoss2D", "Put", "ReflectionPad", "Upsample",
)  # fmt: skip
"""Beginnings of the autograd names of what torch.use_deterministic_algorithms refuses on GPUs."""


@pytest.mark.parametrize(
    "name",
    ["vgg_a_lrn", *(pytest.param(first_of(family), marks=pytest.mark.slow) for family in FAMILIES)],
)
def test_no_gradient_lacks_a_deterministic_implementation_on_gpus(name: str) -> None:
    with torch.device("meta"):  # as on a GPU, other operations may run than on a CPU
        loss = F.cross_entropy(build_model(name).train()(torch.zeros(2, 1, 40, 101)), torch.zeros(2, dtype=torch.long))
    found, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [following for following, _ in node.next_functions]
    names = {node.name() for node in found}
    assert any(name.startswith(("ConvolutionBackward", "AddmmBackward")) for name in names)
    assert not [name for name in names if name.startswith(NONDETERMINISTIC)]


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_logits_and_gradients_are_those_of_the_cpu(family: str) -> None:
    require("gpu", torch.cuda.is_available(), "torch sees no GPU")
    own, x = without_dropout(small(family, 3)), torch.randn(4, *SHAPE)
    other = copy.deepcopy(own).cuda()
    with full_float32():
        torch.testing.assert_close(other.eval()(x.cuda()).cpu(), own.eval()(x), rtol=1e-4, atol=1e-4)
        wanted = gradients(own.train(), x)
        other.train().zero_grad()
        F.cross_entropy(other(x.cuda()), LABELS.cuda()).backward()
    apart = [(p.grad.cpu() - wanted[key]).norm() for key, p in other.named_parameters() if p.grad is not None]
    assert torch.stack(apart).norm() < 1e-2 * torch.stack([value.norm() for value in wanted.values()]).norm()
