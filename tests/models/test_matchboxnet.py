import pytest
import torch
from torch import nn

from kws.models.cost import count_parameters
from kws.models.matchboxnet import MatchboxNet
from kws.models.registry import build_model
from kws.models.separable import DepthwiseConv1d


@pytest.mark.parametrize(
    ("name", "classes", "exact", "paper"),
    [
        ("matchboxnet_3x1x64", 30, 77_214, 77),
        ("matchboxnet_3x2x64", 30, 92_766, 93),
        ("matchboxnet_3x2x112", 35, 176_931, 177),
        ("matchboxnet_6x2x64", 35, 139_491, 140),
    ],
)
def test_parameter_counts_of_the_paper(name: str, classes: int, exact: int, paper: int) -> None:
    count = count_parameters(build_model(name, classes, (1, 64, 128)))
    assert count == exact
    assert abs(count / 1000 - paper) < 0.75


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(11, 2, 1), (13, 1, 1), (17, 1, 1), (29, 1, 2), (5, 1, 3)])
@pytest.mark.parametrize("frames", [1, 2, 7, 16, 51, 64])
def test_depthwise_is_conv1d(kernel: int, stride: int, dilation: int, frames: int) -> None:
    torch.manual_seed(0)
    fast = DepthwiseConv1d(3, kernel, stride, dilation).double()
    pad = dilation * (kernel - 1) // 2
    plain = nn.Conv1d(3, 3, kernel, stride, pad, dilation, groups=3, bias=False).double()
    plain.load_state_dict(fast.state_dict())
    a = torch.randn(2, 3, frames, dtype=torch.float64, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    torch.testing.assert_close(fast(a), plain(b))
    fast(a).square().sum().backward()
    plain(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(4, 1, 1), (5, 2, 2)])
def test_depthwise_refuses_even_kernels_and_stride_with_dilation(kernel: int, stride: int, dilation: int) -> None:
    with pytest.raises(ValueError, match="kernel"):
        DepthwiseConv1d(3, kernel, stride, dilation)


def test_layers_follow_table_1() -> None:
    model = MatchboxNet(64, 30, blocks=3, repeat=2, channels=64)
    found = [
        (m.in_channels, m.kernel_size, m.stride, m.dilation) for m in model.modules() if isinstance(m, DepthwiseConv1d)
    ]
    blocks = [(c, (k,), (1,), (1,)) for k, first in [(13, 128), (15, 64), (17, 64)] for c in (first, 64)]
    assert found == [(64, (11,), (2,), (1,)), *blocks, (64, (29,), (1,), (2,))]


def test_dropout_changes_training_only() -> None:
    torch.manual_seed(0)
    model, x = MatchboxNet(8, 3, 1, 2, 16, dropout=0.5), torch.randn(4, 1, 8, 30)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
