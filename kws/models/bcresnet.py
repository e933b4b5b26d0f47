"""BC-ResNet-tau: Kim et al., Interspeech 2021, arXiv 2106.04140, section 2, tables 1 and 3.

On features (B, C, F, N). The residual function of a block works on the mean over the bands, along time only, and its
result is broadcast over the bands:

    stem    5x5 -> 16 tau channels, halves the bands
    stage1  2 blocks ->  8 tau, dilation 1 in time
    stage2  2 blocks -> 12 tau, dilation 2, halves the bands
    stage3  4 blocks -> 16 tau, dilation 4, halves the bands
    stage4  4 blocks -> 20 tau, dilation 8
    head    5x5 depthwise without padding over the bands, 1x1 -> 32 tau, mean, linear

The first block of a stage changes the number of channels and has no shortcut. The number of frames does not change.
Trainable parameters with 40 bands:

    tau               1       1.5         2         3         6         8
    paper         9.2 K    17.2 K    27.3 K    54.2 K     188 K     321 K
    12 classes    9,232    17,154    27,284    54,168   187,812   321,068
    35 classes    9,991    18,281    28,779    56,399   192,251   326,979

The paper has 40 bands, which the stages reduce to 20, 10, 5 and 5, and uses 5 sub-bands everywhere. With other numbers
of bands, each norm uses the largest number of sub-bands up to 5 that divides its bands (1 is plain batch norm), and
the head's kernel covers all bands where fewer than 5 remain. Weights are initialised as in torch and in the authors'
code.

`time_padding`: `same` as in the paper, or `causal` or `valid` (kws/models/time_context.py) in stem, f1 and head; the
padding of the bands does not change. An output depends on 117 frames.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kws.models.time_context import TimeConv1d, TimeConv2d, TimeNetwork, TimePadding, last_frames

PAPER = "Kim et al., Broadcasted Residual Learning, Interspeech 2021, arXiv 2106.04140"
SMALLEST = (8, 1)  # bands, frames: stem and two stages halve the bands
STAGES = ((2, 8, 1), (2, 12, 2), (4, 16, 2), (4, 20, 1))  # blocks, width / tau, stride over the bands
SUB_BANDS = 5


class FrequencyConv(nn.Module):
    """3x1 depthwise convolution over the bands: (B, C, F, N) -> (B, C, ceil(F / stride), N).

    Computed as one batched matrix product, with a matrix (F / stride) x F of three diagonals per channel. Measured with
    `Pointwise`, against nn.Conv2d for both, on one core, with the same results: 199 -> 165 ms for forward + backward of
    tau 1 at (64, 1, 40, 101).
    """

    place: Tensor  # (3, F / stride * F): where each filter tap is in a channel's matrix

    def __init__(self, channels: int, bands: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 3).uniform_(-(3**-0.5), 3**-0.5))  # as nn.Conv2d initialises
        self.shape = (channels, -(-bands // stride), bands)
        tap, out, band = torch.meshgrid(*(torch.arange(n) for n in (3, *self.shape[1:])), indexing="ij")
        self.register_buffer("place", (band == out * stride + tap - 1).float().flatten(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ self.place).view(self.shape) @ x

    def own_multiply_adds(self, x: Tensor) -> int:
        """Multiply-adds for the input batch x, for `kws.models.cost`: without the zeros of the matrices."""
        return len(x) * self.weight.numel() * self.shape[1] * x.shape[3]


class Pointwise(nn.Linear):
    """1x1 convolution without bias as a batched matrix product: (B, Cin, ...) -> (B, Cout, ...)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.bmm(self.weight.expand(len(x), -1, -1), x.flatten(2))
        return y.reshape(*y.shape[:2], *x.shape[2:])


class SubSpectralNorm(nn.Module):
    """Batch norm with separate statistics for each sub-band of a channel: (B, C, F, N) -> (B, C, F, N).

    Source: Chang et al., arXiv 2103.13620.
    """

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__()
        self.sub_bands = max(s for s in range(1, SUB_BANDS + 1) if bands % s == 0)
        self.norm = nn.BatchNorm2d(channels * self.sub_bands)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, bands, frames = x.shape
        parts = x.reshape(batch, channels * self.sub_bands, bands // self.sub_bands, frames)
        return self.norm(parts).reshape(x.shape)  # type: ignore[no-any-return]


class Block(nn.Module):
    """y = relu([x +] f2(x) + f1(mean of f2(x) over the bands)): (B, Cin, F, N) -> (B, Cout, ceil(F / stride), N)."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        bands: int,
        stride: int,
        dilation: int,
        dropout: float,
        time_padding: TimePadding = "same",
    ) -> None:
        super().__init__()
        change = [] if c_in == c_out else [Pointwise(c_in, c_out), nn.BatchNorm2d(c_out), nn.ReLU()]
        self.f2 = nn.Sequential(
            *change, FrequencyConv(c_out, bands, stride), SubSpectralNorm(c_out, -(-bands // stride))
        )
        self.f1 = nn.Sequential(
            TimeConv1d(c_out, c_out, 3, 1, dilation, dilation, groups=c_out, time_padding=time_padding),
            nn.BatchNorm1d(c_out),
            nn.SiLU(),
            Pointwise(c_out, c_out),
            nn.Dropout1d(dropout),
        )
        self.shortcut = c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.f2(x)
        added = self.f1(y.mean(dim=2)).unsqueeze(2)
        y = last_frames(y, added.shape[-1]) + added
        return torch.relu(y + last_frames(x, y.shape[-1]) if self.shortcut else y)


class BCResNet(TimeNetwork):
    """(B, 1, F, N) features to (B, classes) logits; `width` is 8 tau."""

    def __init__(
        self, bands: int, classes: int, width: int, dropout: float = 0.1, time_padding: TimePadding = "same"
    ) -> None:
        super().__init__()
        self.time_padding = time_padding
        stem = TimeConv2d(1, 2 * width, 5, (2, 1), 2, time_padding=time_padding)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(2 * width), nn.ReLU())
        stages, channels, bands = [], 2 * width, -(-bands // 2)
        for i, (blocks, eighths, stride) in enumerate(STAGES):
            block = functools.partial(Block, dilation=2**i, dropout=dropout, time_padding=time_padding)
            stages.append(_stage(block, blocks, channels, width * eighths // 8, bands, stride))
            channels, bands = width * eighths // 8, -(-bands // stride)
        self.stages = nn.Sequential(*stages)
        kernel = (min(5, bands), 5)
        self.head = nn.Sequential(
            TimeConv2d(channels, channels, kernel, padding=(0, 2), groups=channels, time_padding=time_padding),
            Pointwise(channels, 4 * width),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(),
        )
        self.linear = nn.Linear(4 * width, classes)

    def maps(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))  # type: ignore[no-any-return]

    def classify(self, mean: Tensor) -> Tensor:
        return self.linear(mean)  # type: ignore[no-any-return]


def build_bcresnet(
    num_classes: int, in_shape: tuple[int, int, int], *, tau: float, time_padding: TimePadding = "same"
) -> BCResNet:
    """BC-ResNet-{tau} for features of shape (1, F, N)."""
    return BCResNet(in_shape[1], num_classes, int(8 * tau), time_padding=time_padding)


def _stage(block: Callable[..., Block], blocks: int, c_in: int, c_out: int, bands: int, stride: int) -> nn.Sequential:
    first = block(c_in, c_out, bands, stride)
    return nn.Sequential(first, *(block(c_out, c_out, -(-bands // stride), 1) for _ in range(blocks - 1)))
