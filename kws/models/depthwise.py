"""Depthwise convolution for networks that run in channels-last format: `ds_cnn` and `res_kws`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.time_context import TemporalLayer, TimeContext, TimePadding


class DepthwiseConv2d(nn.Module):
    """Convolution without bias in which each filter sees one input channel.

    (B, C, H, W) -> (B, C, H', W') with one filter per channel, or (B, 1, H, W) -> (B, C, H', W') with C filters on the
    only channel. The weight has shape (C, height, width). With shape (C, 1, height, width), its gradient in
    channels-last format would have another stride on the axis of length 1, so that DistributedDataParallel copies it
    and warns. `pad`: zeros on each side of both axes; with another `time_padding` than `same`, of the bands only.
    """

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        pad: int = 0,
        time_padding: TimePadding = "same",
    ) -> None:
        super().__init__()
        bound = (kernel[0] * kernel[1]) ** -0.5  # as nn.Conv2d initialises
        self.weight = nn.Parameter(torch.empty(channels, *kernel).uniform_(-bound, bound))
        self.context = TimeContext(time_padding, TemporalLayer(kernel[1], stride[1]))
        self.stride, self.padding = stride, (pad, pad if time_padding == "same" else 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.context(x)
        return F.conv2d(x, self.weight.unsqueeze(1), None, self.stride, self.padding, 1, x.shape[1])

    def own_multiply_adds(self, x: Tensor) -> int:
        """Multiply-adds for the input batch x, for `kws.models.cost`."""
        _, height, width = self.weight.shape
        rows = (x.shape[2] + 2 * self.padding[0] - height) // self.stride[0] + 1
        columns = (x.shape[3] + self.context.added + 2 * self.padding[1] - width) // self.stride[1] + 1
        return len(x) * self.weight.numel() * rows * columns
