"""TC-ResNet: Choi et al., Interspeech 2019, arXiv 1904.03814, section 3 and table 1.

Temporal convolutions over (B, F, 1, N): the F frequency bands are the input channels, so each kernel sees every band.

    conv0   kernel 3 -> 16 channels (times the width multiplier, as below)
    blocks  two convolutions of kernel 9, the first with stride 2 where the width grows: 24, 32, 48 channels
    head    mean over time, dropout, linear without bias

Parameters with F = 40 and 12 classes; the paper's numbers include the running mean and variance of batch norm:

                             8     8 x1.5        14    14 x1.5
    paper                 66 K      145 K     137 K      305 K
    trainable           65,168    144,264   135,856    303,000
    with statistics     65,824    145,248   136,928    304,608

`time_padding`: `same` as in the paper, or `causal` or `valid` (kws/models/time_context.py). An output depends on 171
frames in TC-ResNet8 and on 395 in TC-ResNet14.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.time_context import TimeConv2d, TimeNetwork, TimePadding

PAPER = "Choi et al., TC-ResNet, Interspeech 2019, arXiv 1904.03814"
SMALLEST = (1, 8)  # bands, frames: three stages halve the frames
STEM = 16
STAGES = (24, 32, 48)


class Projection(nn.Module):
    """1x1 convolution with `stride`, batch norm, ReLU: (B, Cin, 1, N) -> (B, Cout, 1, N / stride).

    The convolution is an nn.Linear over the channels (the last axis of the channels-last format), because the gradient
    of a 1x1 nn.Conv2d in that format has other strides than its weight, so that DistributedDataParallel copies it and
    warns.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(c_in, c_out, bias=False), nn.BatchNorm2d(c_out)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x[..., :: self.stride].permute(0, 2, 3, 1))
        return F.relu(self.norm(y.permute(0, 3, 1, 2)))


class Block(nn.Module):
    """Two temporal convolutions and a shortcut, which is projected where the width grows."""

    def __init__(self, c_in: int, c_out: int, time_padding: TimePadding) -> None:
        super().__init__()
        self.stride = 1 if c_in == c_out else 2
        self.conv1, self.norm1 = _conv(c_in, c_out, 9, time_padding, self.stride), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = _conv(c_out, c_out, 9, time_padding), nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if self.stride > 1:
            self.shortcut = Projection(c_in, c_out, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(self._cropped(x, y.shape[-1])))

    def _cropped(self, x: Tensor, positions: int) -> Tensor:
        """The frames of the shortcut: those of the groups whose outputs y has."""
        lost, frames = self.conv1.context.lost + self.stride * self.conv2.context.lost, self.stride * positions
        return x[..., lost : lost + frames] if lost or x.shape[-1] > frames else x


class TCResNet(TimeNetwork):
    """(B, 1, F, N) features to (B, classes) logits; `per_stage` blocks per stage, `width` multiplies the channels."""

    def __init__(
        self,
        bands: int,
        classes: int,
        per_stage: int,
        width: float = 1.0,
        dropout: float = 0.5,
        time_padding: TimePadding = "same",
    ) -> None:
        super().__init__()
        self.time_padding = time_padding
        widths = [int(STEM * width)] + [int(c * width) for c in STAGES for _ in range(per_stage)]
        self.conv0, self.norm0 = _conv(bands, widths[0], 3, time_padding), nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(Block(a, b, time_padding) for a, b in pairwise(widths)))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], classes, bias=False)
        self.apply(_init)

    def maps(self, x: Tensor) -> Tensor:
        # 2-d convolutions of height 1 in channels-last format are faster than nn.Conv1d with oneDNN: 15.2 -> 11.8 ms
        # for forward + backward of tc_resnet8 and 50 -> 39 ms of tc_resnet14_1.5 at (64, 1, 40, 101) on one core.
        x = x.transpose(1, 2).contiguous(memory_format=torch.channels_last)
        return self.blocks(F.relu(self.norm0(self.conv0(x))))  # type: ignore[no-any-return]

    def classify(self, mean: Tensor) -> Tensor:
        return self.linear(self.dropout(mean))  # type: ignore[no-any-return]


def build_tc_resnet(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    per_stage: int,
    width: float = 1.0,
    time_padding: TimePadding = "same",
) -> TCResNet:
    """TC-ResNet{2 + 6 * per_stage} at width multiplier `width` for features of shape (1, F, N)."""
    return TCResNet(in_shape[1], num_classes, per_stage, width, time_padding=time_padding)


def _conv(c_in: int, c_out: int, kernel: int, time_padding: TimePadding, stride: int = 1) -> TimeConv2d:
    return TimeConv2d(c_in, c_out, (1, kernel), (1, stride), (0, kernel // 2), time_padding=time_padding)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
