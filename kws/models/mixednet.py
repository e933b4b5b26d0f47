"""MixedNet: a small network made for streams, `valid` in time, after that of kahrendt/microWakeWord (mixednet.py).

Depthwise kernels of several lengths in one layer (MixConv: Tan & Le, BMVC 2019, arXiv 1907.09595), over (B, F, N):

    stem     kernel 6, stride 2 -> 48
    blocks   5 | 5, 9 | 7, 13 | 9, 15 -> 96   mixed depthwise, 1x1, batch norm, ReLU; shortcut where C stays
    head     mean over time, then 96 -> classes

What is microWakeWord's: no padding in time, mixed kernels that grow, shortcuts added after the activation, a stride in
the stem. Its networks detect one wake word; the layers here are chosen for more classes: 51,059 trainable parameters
with 40 bands and 35 classes, and outputs that depend on 82 frames, so that a window of 98 frames (1 s) has 9 of them
and training sees exactly what a stream will.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.separable import DepthwiseConv1d
from kws.models.time_context import (
    TemporalLayer,
    TimeConv1d,
    TimeNetwork,
    TimePadding,
    last_frames,
    receptive_field,
)

PAPER = "Tan & Le, MixConv, BMVC 2019, arXiv 1907.09595; as in kahrendt/microWakeWord"
STEM, WIDTH = 48, 96
STEM_LAYER = TemporalLayer(6, 2)
KERNELS = ((5,), (5, 9), (7, 13), (9, 15))


def temporal_layers(kernels: Sequence[Sequence[int]]) -> list[TemporalLayer]:
    """Stem and blocks: the longest kernel of a block counts."""
    return [STEM_LAYER, *(TemporalLayer(max(lengths)) for lengths in kernels)]


SMALLEST = (1, receptive_field(temporal_layers(KERNELS)))  # bands, frames


class MixedDepthwise(nn.Module):
    """Depthwise in time, with one kernel length for each equal part of the channels: (B, C, N) -> (B, C, N')."""

    def __init__(self, channels: int, kernels: Sequence[int], time_padding: TimePadding) -> None:
        super().__init__()
        self.width = channels // len(kernels)
        self.convs = nn.ModuleList(DepthwiseConv1d(self.width, kernel, time_padding=time_padding) for kernel in kernels)

    def forward(self, x: Tensor) -> Tensor:
        parts = [conv(part) for conv, part in zip(self.convs, torch.split(x, self.width, dim=1), strict=True)]
        frames = min(part.shape[-1] for part in parts)
        return torch.cat([last_frames(part, frames) for part in parts], dim=1)


class Block(nn.Module):
    """Mixed depthwise, 1x1, batch norm, ReLU, shortcut: (B, Cin, N) -> (B, C, N')."""

    def __init__(self, c_in: int, c_out: int, kernels: Sequence[int], time_padding: TimePadding) -> None:
        super().__init__()
        self.depthwise = MixedDepthwise(c_in, kernels, time_padding)
        self.pointwise, self.norm = nn.Conv1d(c_in, c_out, 1, bias=False), nn.BatchNorm1d(c_out)
        self.shortcut = c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.pointwise(self.depthwise(x))))
        return y + last_frames(x, y.shape[-1]) if self.shortcut else y


class MixedNet(TimeNetwork):
    """(B, 1, F, N) features to (B, classes) logits."""

    def __init__(
        self,
        bands: int,
        classes: int,
        kernels: Sequence[Sequence[int]] = KERNELS,
        dropout: float = 0.0,
        time_padding: TimePadding = "valid",
    ) -> None:
        super().__init__()
        self.time_padding, self.kernels = time_padding, kernels
        kernel, stride, _ = STEM_LAYER
        self.stem, self.norm = TimeConv1d(bands, STEM, kernel, stride, time_padding=time_padding), nn.BatchNorm1d(STEM)
        widths = (STEM, *(WIDTH for _ in kernels[1:]))
        self.blocks = nn.Sequential(*(Block(c, WIDTH, k, time_padding) for c, k in zip(widths, kernels, strict=True)))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(WIDTH, classes)

    @property
    def temporal_layers(self) -> list[TemporalLayer]:
        return temporal_layers(self.kernels)

    def maps(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.norm(self.stem(x.squeeze(1)))))  # type: ignore[no-any-return]

    def classify(self, mean: Tensor) -> Tensor:
        return self.linear(self.dropout(mean))  # type: ignore[no-any-return]


def build_mixednet(
    num_classes: int, in_shape: tuple[int, int, int], *, kernels: Sequence[Sequence[int]] = KERNELS
) -> MixedNet:
    """MixedNet for features of shape (1, F, N)."""
    return MixedNet(in_shape[1], num_classes, kernels)
