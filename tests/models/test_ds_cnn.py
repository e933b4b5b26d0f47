import pytest
import torch
from torch import nn

from kws.errors import UsageError
from kws.models.cost import count_parameters, multiply_adds
from kws.models.ds_cnn import DSCNN, SIZES, DepthwiseConv2d, Pointwise, pad_same
from kws.models.registry import build_model

MFCC = (1, 10, 49)  # the paper's features: 10 coefficients, 40 ms windows every 20 ms
# Trainable parameters with 12 classes; sizes of the two largest adjacent feature maps; the paper's memory (KB of 1,000
# bytes) and millions of operations.
PAPER = {
    "ds_cnn_s": (23_180, 2 * 25 * 5 * 64, 38.6, 5.4),
    "ds_cnn_m": (136_580, (25 * 10 + 13 * 5) * 172, 189.2, 19.8),
    "ds_cnn_l": (413_736, (25 * 10 + 13 * 5) * 276, 497.6, 56.9),
}


def folded(model: nn.Module) -> int:
    """Number of parameters with batch norms folded into the convolutions, which leaves one bias per channel."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return count_parameters(model) - sum(norm.num_features for norm in norms)


@pytest.mark.parametrize("name", PAPER)
def test_parameters_and_memory_of_the_paper(name: str) -> None:
    exact, activations, kilobytes, _ = PAPER[name]
    model = build_model(name, 12, MFCC)
    assert count_parameters(model) == exact
    assert round((folded(model) + activations) / 1000, 1) == kilobytes


@pytest.mark.parametrize("name", PAPER)
def test_operations_of_the_paper(name: str) -> None:
    """Two operations for each multiply-add, and one for the bias of every value."""
    values = 0

    def add(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal values
        values += output.numel()

    model = build_model(name, 12, MFCC)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(add)
    operations = 2 * multiply_adds(model, MFCC) + values
    assert round(operations / 1e6, 1) == PAPER[name][3]


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ("s", [(20, 51), (20, 51), (20, 51), (20, 51), (20, 51)]),
        ("m", [(40, 51), (20, 26), (20, 26), (20, 26), (20, 26)]),
        ("l", [(40, 51), (20, 26), (20, 26), (20, 26), (20, 26), (20, 26)]),
    ],
)
def test_strides_of_the_paper(size: str, sizes: list[tuple[int, int]]) -> None:
    model, found = DSCNN(12, SIZES[size]).eval(), []
    for stage in (model.stem, *model.blocks):
        stage.register_forward_hook(lambda _, __, y: found.append(tuple(y.shape[1:])))
    model(torch.randn(1, 1, 40, 101))
    assert found == [(SIZES[size].channels, *s) for s in sizes]


def test_kernels_are_ten_frames_by_four_bands_and_three_by_three() -> None:
    kernels = [tuple(m.weight.shape) for m in DSCNN(12, SIZES["s"]).modules() if isinstance(m, DepthwiseConv2d)]
    assert kernels == [(64, 4, 10)] + [(64, 3, 3)] * 4


@pytest.mark.parametrize("length", [4, 9, 10, 49, 50])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_gives_one_position_for_every_stride(length: int, stride: int) -> None:
    """As in TensorFlow's SAME: the same number of zeros on both sides, an odd one at the end."""
    x = pad_same(torch.ones(1, 1, length, length), (4, 10), (stride, stride))
    for axis, kernel in ((2, 4), (3, 10)):
        assert (x.shape[axis] - kernel) // stride + 1 == -(-length // stride)
        inside = x.sum(dim=5 - axis).flatten().nonzero()
        before, after = int(inside.min()), x.shape[axis] - 1 - int(inside.max())
        assert after - before in (0, 1)


def test_depthwise_and_pointwise_are_convolutions() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    deep, wide, point = (
        DepthwiseConv2d(5, (3, 3), (2, 1), 1).double(),
        DepthwiseConv2d(6, (4, 2)).double(),
        Pointwise(5, 7).double(),
    )
    plain = nn.Conv2d(5, 5, 3, (2, 1), 1, groups=5, bias=False).double()
    plain.weight.data = deep.weight.data.unsqueeze(1)
    torch.testing.assert_close(deep(x), plain(x))
    torch.testing.assert_close(wide(x[:, :1]), nn.functional.conv2d(x[:, :1], wide.weight.unsqueeze(1)))
    torch.testing.assert_close(point(x), torch.einsum("oi,bihw->bohw", point.weight, x))
    assert multiply_adds(nn.Sequential(deep.float()), (5, 9, 8)) == 5 * 9 * (5 * 8)


@pytest.mark.parametrize(("name", "smallest"), [("ds_cnn_s", (2, 2)), ("ds_cnn_m", (2, 4)), ("ds_cnn_l", (2, 4))])
def test_the_smallest_features_leave_one_position(name: str, smallest: tuple[int, int]) -> None:
    model = build_model(name, 3, (1, *smallest)).eval()
    assert model.blocks(model.stem(pad_same(torch.zeros(1, 1, *smallest), (4, 10), model.stem_stride))).shape[2:] == (
        1,
        1,
    )
    with pytest.raises(UsageError, match="frames"):
        build_model(name, 3, (1, smallest[0], smallest[1] - 1))
