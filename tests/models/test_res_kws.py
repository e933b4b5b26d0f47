import pytest
import torch
from torch import nn

from kws.models.cost import count_parameters
from kws.models.registry import build_model
from kws.models.res_kws import Layer, Res

# 12 classes; the paper's tables, in thousands.
PAPER = {
    "res8": (110_307, 110),
    "res8_narrow": (19_905, 19.9),
    "res15": (237_882, 238),
    "res15_narrow": (42_648, 42.6),
    "res26": (438_357, 438),
    "res26_narrow": (78_387, 78.4),
}


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_of_the_paper(name: str) -> None:
    exact, paper = PAPER[name]
    count = count_parameters(build_model(name, 12))
    assert count == exact
    assert float(f"{count / 1000:.3g}") == paper


@pytest.mark.parametrize("depth", [8, 15, 26])
def test_depth_counts_the_layers_with_weights(depth: int) -> None:
    layers = [m for m in Res(12, depth, 5).modules() if isinstance(m, Layer)]
    assert len(layers) + 2 == depth  # the stem and the linear layer


def test_res15_doubles_the_dilation_every_third_layer() -> None:
    dilations = [layer.conv.dilation for layer in Res(12, 15, 5).layers]
    assert dilations == [(d, d) for d in (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16)]


@pytest.mark.parametrize(("depth", "size"), [(8, (13, 25)), (15, (40, 101)), (26, (20, 50))])
def test_the_mean_at_the_start(depth: int, size: tuple[int, int]) -> None:
    found: list[tuple[int, ...]] = []
    model = Res(12, depth, 5).eval()
    model.layers[0].register_forward_hook(lambda _, x, __: found.append(tuple(x[0].shape)))
    model(torch.randn(1, 1, 40, 101))
    assert found == [(1, 5, *size)]


def test_the_receptive_field_of_res15_is_125_frames() -> None:
    """The paper's receptive field: 3 for the stem, and twice the dilation for each layer."""
    model = Res(2, 15, 3).double().eval()
    for p in model.parameters():
        nn.init.constant_(p, 0.1)  # so that nothing cancels and no ReLU is inactive
    last: list[torch.Tensor] = []
    model.layers[-1].register_forward_hook(lambda _, __, y: last.append(y[0]))
    x = torch.rand(1, 1, 3, 201, dtype=torch.float64, requires_grad=True)
    model(x)
    last[0][..., 100].sum().backward()
    seen = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    assert int(seen.max() - seen.min()) + 1 == 3 + 2 * (3 + 6 + 12 + 24 + 16) == 125


def test_shortcuts_span_two_layers_and_are_added_before_the_norm() -> None:
    model, x = Res(2, 8, 4), torch.randn(3, 1, 12, 16)
    features: list[torch.Tensor] = []
    model.linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    model(x)

    y = pair = nn.functional.avg_pool2d(model.stem(x).relu(), (3, 4))
    for i, layer in enumerate(model.layers):
        y = layer.conv(y).relu()
        if i % 2:
            y = pair = y + pair
        y = layer.norm(y)
    torch.testing.assert_close(features[0], y.mean(dim=(2, 3)))


def test_norms_have_no_weights_and_convolutions_no_bias() -> None:
    model = Res(12, 15, 5)
    assert {name.split(".")[0] + "." + name.split(".")[-1] for name, _ in model.named_parameters()} == {
        "stem.weight", "layers.weight", "linear.weight", "linear.bias",
    }  # fmt: skip
    assert all(not m.affine for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dilated_layers_are_safe_in_bfloat16(layout: torch.memory_format) -> None:
    """Without the padding oneDNN's weight gradient is NaN here, and crashes at dilation 8."""
    torch.manual_seed(0)
    layer, x = Layer(19, dilation=2), torch.randn(2, 19, 16, 16).to(memory_format=layout)
    expected = torch.autograd.grad(layer(x, None)[0].square().mean(), layer.conv.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(layer(x, None)[0].float().square().mean(), layer.conv.weight)[0]
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * expected.abs().max().item())
