import pytest
import torch
from torch import nn

from kws.models import bcresnet
from kws.models.bcresnet import BCResNet, Block, FrequencyConv, Pointwise, SubSpectralNorm
from kws.models.cost import count_parameters, multiply_adds
from kws.models.registry import build_model


@pytest.mark.parametrize(
    ("name", "exact", "paper"),
    [
        ("bcresnet_1", 9_232, 9.2),
        ("bcresnet_1.5", 17_154, 17.2),
        ("bcresnet_2", 27_284, 27.3),
        ("bcresnet_3", 54_168, 54.2),
        ("bcresnet_6", 187_812, 188),
        ("bcresnet_8", 321_068, 321),
    ],
)
def test_parameter_counts_of_the_paper(name: str, exact: int, paper: float) -> None:
    """Table 3: 40 bands, 12 classes, in thousands."""
    count = count_parameters(build_model(name, 12, (1, 40, 98)))
    assert count == exact
    assert round(count / 1000, 1 if paper < 100 else 0) == paper


def test_35_classes_add_only_to_the_last_layer() -> None:
    assert count_parameters(build_model("bcresnet_1", 35)) == 9_232 + 23 * (32 + 1)


def test_stages_follow_table_1() -> None:
    model = BCResNet(40, 12, width=8).eval()
    x, shapes = model.stem(torch.randn(1, 1, 40, 50)), []
    for stage in (nn.Identity(), *model.stages, model.head):
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 20, 50), (8, 20, 50), (12, 10, 50), (16, 5, 50), (20, 5, 50), (32, 1, 50)]
    assert [len(stage) for stage in model.stages] == [2, 2, 4, 4]


def test_dilations_and_shortcuts_follow_table_1() -> None:
    blocks = [m for m in BCResNet(40, 12, width=8).modules() if isinstance(m, Block)]
    assert [b.f1[0].dilation for b in blocks] == [(1,)] * 2 + [(2,)] * 2 + [(4,)] * 4 + [(8,)] * 4
    assert [b.shortcut for b in blocks] == [False, True] * 2 + [False, True, True, True] * 2
    assert all(b.f1[4].p == 0.1 for b in blocks)


def test_the_receptive_field_follows_the_dilations() -> None:
    """Frames on each side: every block adds its dilation, stem and head add 2 each."""
    model = BCResNet(40, 12, width=8).double().eval()
    x = torch.randn(1, 1, 40, 201, dtype=torch.float64, requires_grad=True)
    model.head(model.stages(model.stem(x)))[..., 100].sum().backward()
    seen = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    reach = 2 + 2 * 1 + 2 * 2 + 4 * 4 + 4 * 8 + 2
    assert (int(seen.min()), int(seen.max())) == (100 - reach, 100 + reach)


@pytest.mark.parametrize(("bands", "stride"), [(20, 1), (20, 2), (7, 2), (5, 1), (2, 2), (1, 1)])
def test_frequency_conv_is_a_depthwise_conv2d(bands: int, stride: int) -> None:
    fast = FrequencyConv(3, bands, stride).double()
    plain = nn.Conv2d(3, 3, (3, 1), (stride, 1), (1, 0), groups=3, bias=False).double()
    plain.weight.data = fast.weight.data.view(3, 1, 3, 1)
    a = torch.randn(2, 3, bands, 6, dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    torch.testing.assert_close(fast(a), plain(b))
    fast(a).square().sum().backward()
    plain(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad.view(3, 3))


def test_convolutions_are_initialised_as_in_torch() -> None:
    weight = FrequencyConv(4000, 4).weight
    assert weight.abs().max() <= 3**-0.5
    assert abs(weight.std().item() - nn.Conv2d(4000, 4000, (3, 1), groups=4000).weight.std().item()) < 0.01


@pytest.mark.parametrize("size", [(4, 5), (7,)])
def test_pointwise_is_a_1x1_convolution(size: tuple[int, ...]) -> None:
    fast, x = Pointwise(3, 5).double(), torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(fast(x), torch.einsum("oi,bi...->bo...", fast.weight, x))


@pytest.mark.parametrize(("bands", "sub_bands"), [(20, 5), (5, 5), (16, 4), (8, 4), (9, 3), (7, 1), (1, 1)])
def test_sub_spectral_norm_is_batch_norm_of_each_sub_band(bands: int, sub_bands: int) -> None:
    norm, x = SubSpectralNorm(3, bands), torch.randn(4, 3, bands, 6)
    assert norm.sub_bands == sub_bands
    parts = [nn.BatchNorm2d(3)(part) for part in x.chunk(sub_bands, dim=2)]
    torch.testing.assert_close(norm(x), torch.cat(parts, dim=2))


@pytest.mark.parametrize(("bands", "height"), [(40, 5), (80, 5), (32, 4), (8, 1)])
def test_the_head_fits_the_remaining_bands(bands: int, height: int) -> None:
    assert BCResNet(bands, 12, width=8).head[0].kernel_size == (height, 5)


def test_the_residual_function_is_broadcast_over_the_bands() -> None:
    block = Block(4, 4, bands=5, stride=1, dilation=2, dropout=0.0).eval()
    x = torch.randn(2, 4, 5, 12)
    y = block.f2(x)
    added = block.f1(y.mean(dim=2)).unsqueeze(2)
    torch.testing.assert_close(block(x), torch.relu(x + y + added))


def test_dropout_drops_whole_channels_in_training_only() -> None:
    torch.manual_seed(0)
    dropout = Block(64, 64, 5, 1, 1, dropout=0.5).f1[4]
    y = dropout(torch.ones(2, 64, 9))
    assert ((y == 0).all(dim=2) | (y != 0).all(dim=2)).all()
    model, x = bcresnet.build_bcresnet(3, (1, 8, 20), tau=1), torch.randn(4, 1, 8, 20)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_multiply_adds_are_those_of_the_convolutions() -> None:
    """3 for each output of a 3x1 depthwise convolution, without the zeros of its matrices."""
    conv = nn.Sequential(FrequencyConv(3, bands=7, stride=2))
    assert multiply_adds(conv, (3, 7, 5)) == 3 * (3 * 4 * 5)
