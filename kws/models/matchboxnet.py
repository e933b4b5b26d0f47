"""MatchboxNet-BxRxC: Majumdar & Ginsburg, Interspeech 2020, arXiv 2004.08531, section 2 and table 1.

Time-channel separable 1-D convolutions over (B, F, N): the F frequency bands are the input channels.

    Conv1   kernel 11, stride 2 -> 128   separable
    B1..BB  kernel 13, 15, 17 ... -> C   R separable sub-blocks + residual (1x1 and batch norm)
    Conv2   kernel 29, dilation 2 -> 128 separable
    Conv3   kernel 1 -> 128              plain
    Conv4   mean over time, then 128 -> classes

Trainable parameters with F = 64:

                   3x1x64    3x2x64   3x2x112    6x2x64
    paper            77 K      93 K     177 K     140 K
    30 classes     77,214    92,766   176,286   138,846
    35 classes     77,859    93,411   176,931   139,491

What the paper leaves open follows the authors' NeMo training files: no dropout, Xavier initialisation, batch norm eps
1e-3, a residual projection in every block. Those files have stride 1 in Conv1, which means twice the frames and twice
the work; `MatchboxNet(stride=1)` is that network.

`time_padding`: `same` as in the paper, or `causal` or `valid` (kws/models/time_context.py). An output depends on 207
frames in 3x1x64 and on 291 in 3x2x64.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.separable import Block, Separable, init_xavier, norm
from kws.models.time_context import TimeNetwork, TimePadding

PAPER = "Majumdar & Ginsburg, MatchboxNet, Interspeech 2020, arXiv 2004.08531"
SMALLEST = (1, 2)  # bands, frames: Conv1 halves the frames
EDGE = 128  # channels of Conv1, Conv2 and Conv3


class MatchboxNet(TimeNetwork):
    """(B, 1, F, N) features to (B, classes) logits. `dropout` 0 is what the authors' published training files use."""

    def __init__(
        self,
        bands: int,
        classes: int,
        blocks: int,
        repeat: int,
        channels: int,
        stride: int = 2,
        dropout: float = 0.0,
        time_padding: TimePadding = "same",
    ) -> None:
        super().__init__()
        self.time_padding = time_padding
        widths = [EDGE] + [channels] * blocks
        self.conv1 = Separable(bands, EDGE, 11, stride, time_padding=time_padding)
        self.blocks = nn.Sequential(
            *(Block(widths[i], widths[i + 1], 13 + 2 * i, repeat, dropout, time_padding) for i in range(blocks))
        )
        self.conv2 = Separable(channels, EDGE, 29, dilation=2, time_padding=time_padding)
        self.conv3 = nn.Sequential(nn.Conv1d(EDGE, EDGE, 1, bias=False), norm(EDGE))
        self.conv4 = nn.Linear(EDGE, classes)
        self.dropout = nn.Dropout(dropout)
        self.apply(init_xavier)

    def maps(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.conv1(x.squeeze(1))))
        x = self.blocks(x)
        x = self.dropout(F.relu(self.conv2(x)))
        return self.dropout(F.relu(self.conv3(x)))  # type: ignore[no-any-return]

    def classify(self, mean: Tensor) -> Tensor:
        return self.conv4(mean)  # type: ignore[no-any-return]


def build_matchboxnet(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    blocks: int,
    repeat: int,
    channels: int,
    time_padding: TimePadding = "same",
) -> MatchboxNet:
    """MatchboxNet-{blocks}x{repeat}x{channels} for features of shape (1, F, N)."""
    return MatchboxNet(in_shape[1], num_classes, blocks, repeat, channels, time_padding=time_padding)
