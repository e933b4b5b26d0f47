"""Wide residual networks: Zagoruyko & Komodakis, BMVC 2016, arXiv 1605.07146, sections 2 and 3, tables 1 and 2.

On features (B, in_channels, F, N):

    stem    3x3 -> 16
    stages  n pre-activation blocks each, of 16k, 32k, 64k channels; all but the first stage with stride 2
    head    batch norm, ReLU, global mean, linear

WRN-d-k has depth d = 6n + 4 and widening factor k. Trainable parameters:

                                 28-10          52-10
    1 channel,  35 classes    36,494,931     75,220,051
    3 channels, 10 classes    36,479,194     75,204,314    paper: 36.5 M; 52-10 is not in it

Block types of table 2 with k = 2, 3 channels and 10 classes (the depth counts two convolutions per block for every
type):

                  B(1,3,1)      B(3,1)      B(1,3)    B(3,1,1)      B(3,3)    B(3,1,3)
    depth               40          40          40          40          28          22
    paper            1.4 M       1.2 M       1.3 M       1.3 M       1.5 M       1.1 M
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kws.errors import UsageError
from kws.models.layers import conv, init_he

PAPER = "Zagoruyko & Komodakis, Wide Residual Networks, BMVC 2016, arXiv 1605.07146"
STEM = 16
STAGES = 3
SMALLEST = (4, 4)  # bands, frames: two stages halve both


class Block(nn.Module):
    """(B, Cin, H, W) -> (B, Cout, H / stride, W / stride): norm, ReLU, convolution for each of `kernels`; shortcut.

    Dropout is between the convolutions. The first 3x3 has the stride, so that no position is ignored.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, kernels: Sequence[int], dropout: float) -> None:
        super().__init__()
        widths, strided = [c_in] + [c_out] * len(kernels), kernels.index(3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[:-1])
        self.convs = nn.ModuleList(
            conv(widths[i], c_out, kernel, stride if i == strided else 1) for i, kernel in enumerate(kernels)
        )
        self.dropout = nn.Dropout(dropout)
        self.shortcut = conv(c_in, c_out, 1, stride) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.norms[0](x))
        y = self.convs[0](active)
        for norm, layer in zip(self.norms[1:], self.convs[1:], strict=True):
            y = layer(self.dropout(F.relu(norm(y))))
        return y + (x if self.shortcut is None else self.shortcut(active))  # type: ignore[no-any-return]


class WideResNet(nn.Module):
    """(B, in_channels, F, N) features to (B, classes) logits: WRN-`depth`-`width`."""

    def __init__(
        self, in_channels: int, classes: int, depth: int, width: int, kernels: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        blocks = _blocks_per_stage(depth)
        self.stem = conv(in_channels, STEM)
        self.stages, c_in = nn.Sequential(), STEM
        for i in range(STAGES):
            c_out = STEM * width * 2**i
            first = Block(c_in, c_out, 2 if i else 1, kernels, dropout)
            rest = (Block(c_out, c_out, 1, kernels, dropout) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))
            c_in = c_out
        self.norm, self.linear = nn.BatchNorm2d(c_in), nn.Linear(c_in, classes)
        self.apply(init_he)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stages(self.stem(x))))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def build_wrn(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    depth: int,
    width: int,
    kernels: Sequence[int] = (3, 3),
    dropout: float = 0.0,
) -> WideResNet:
    """WRN-{depth}-{width} with blocks B(kernels) for features of shape (in_channels, F, N) with any F and N."""
    return WideResNet(in_shape[0], num_classes, depth, width, kernels, dropout)


def _blocks_per_stage(depth: int) -> int:
    if depth < 10 or depth % 6 != 4:
        raise UsageError(f"wide ResNet depth {depth}: wanted 6n + 4, such as 16, 22, 28, 40 or 52")
    return (depth - 4) // 6
