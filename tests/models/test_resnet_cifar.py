import pytest
import torch
from torch import nn

from kws.errors import UsageError
from kws.models.cost import count_parameters
from kws.models.registry import build_model
from kws.models.resnet_cifar import BasicBlock, ResNetCifar

# He et al. count three input channels; with one, the stem has 2 * 3 * 3 * 16 = 288 weights fewer.
PAPER = {"resnet20": 269_722, "resnet32": 464_154, "resnet44": 658_586, "resnet56": 853_018}


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_of_the_paper(name: str) -> None:
    assert count_parameters(build_model(name, 10)) == PAPER[name] - 288


def test_resnet32_with_35_classes() -> None:
    assert count_parameters(build_model("resnet32")) == 465_491


def test_depth_counts_the_layers_with_weights() -> None:
    layers = [m for m in ResNetCifar(10, 32).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 32


@pytest.mark.parametrize("depth", [2, 18, 33])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(UsageError, match="6n \\+ 2"):
        ResNetCifar(10, depth)


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_shortcut_is_option_a(size: tuple[int, int]) -> None:
    block = BasicBlock(4, 6, 2).eval()
    nn.init.zeros_(block.norm2.weight)  # leaves the shortcut alone
    x = torch.rand(2, 4, *size)
    y = block(x)
    torch.testing.assert_close(y[:, :4], x[:, :, ::2, ::2])
    assert y[:, 4:].abs().max() == 0


def test_stages_halve_both_axes() -> None:
    model = ResNetCifar(10, 8).eval()
    x = model.stage1(torch.randn(1, 16, 40, 101))
    assert x.shape == (1, 16, 40, 101)
    assert model.stage3(model.stage2(x)).shape == (1, 64, 10, 26)
