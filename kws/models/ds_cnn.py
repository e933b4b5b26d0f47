"""DS-CNN: Zhang et al., "Hello Edge", arXiv 1711.07128, section 4 and the authors' training commands.

    stem    10x4 (frames x bands) -> C
    blocks  3x3 depthwise, 1x1 -> C; batch norm and ReLU after each
    head    global mean, linear

              C   blocks   stride of the stem   of the first block   (frames, bands)
    S        64        4               (2, 2)               (1, 1)
    M       172        4               (2, 1)               (2, 2)
    L       276        5               (2, 1)               (2, 2)

In the code kernels and strides are (bands, frames), because features are (B, 1, bands, frames). Parameters with 12
classes:

                                        S         M         L
    deployed, batch norm folded    22,604   135,032   410,700
    trainable                      23,180   136,580   413,736
    with running statistics        24,332   139,676   419,808
    35 classes, trainable          24,675   140,559   420,107

The first row, at one byte per parameter, plus the two largest adjacent feature maps gives the memory in the paper's
table: 38.6, 189.2 and 497.6 KB for 49 frames of 10 MFCCs. The authors' convolutions have a bias and their norms no
scale; here it is the other way round, with the same number of parameters, none of them redundant. Xavier
initialisation, batch norm eps 1e-3 and momentum 0.04 are as in their code. Every layer has ceil(n / stride) output
positions; the 3x3 with stride 2 is padded on both sides, theirs at the end only.

`time_padding`: `same` as in the paper, or `causal` or `valid` (kws/models/time_context.py); the padding of the bands
does not change. An output depends on 26 (S), 38 (M) or 46 (L) frames.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.depthwise import DepthwiseConv2d
from kws.models.time_context import TemporalLayer, TimeNetwork, TimePadding, receptive_field

PAPER = "Zhang et al., Hello Edge, arXiv 1711.07128"
STEM = (4, 10)  # bands, frames


class Size(NamedTuple):
    """One row of the table above; strides are (bands, frames)."""

    channels: int
    blocks: int
    stem_stride: tuple[int, int]
    block_stride: int

    def smallest(self, time_padding: TimePadding = "same") -> tuple[int, int]:
        """Smallest (bands, frames) that give one position: as the strides reduce them, and with `valid` padding the
        receptive field."""
        bands, frames = (stride * self.block_stride for stride in self.stem_stride)
        return bands, receptive_field(self.temporal_layers) if time_padding == "valid" else frames

    @property
    def temporal_layers(self) -> list[TemporalLayer]:
        """Stem and blocks."""
        blocks = [TemporalLayer(3, stride) for stride in self.strides]
        return [TemporalLayer(STEM[1], self.stem_stride[1]), *blocks]

    @property
    def strides(self) -> list[int]:
        """The stride of each block, the same for bands and frames."""
        return [self.block_stride] + [1] * (self.blocks - 1)


SIZES = {"s": Size(64, 4, (2, 2), 1), "m": Size(172, 4, (1, 2), 2), "l": Size(276, 5, (1, 2), 2)}


class Pointwise(nn.Linear):
    """1x1 convolution without bias: (B, Cin, H, W) -> (B, Cout, H, W).

    Its weight is a matrix for the reason given in DepthwiseConv2d.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[..., None, None])


class DSCNN(TimeNetwork):
    """(B, 1, F, N) features to (B, classes) logits."""

    def __init__(self, classes: int, size: Size, time_padding: TimePadding = "same") -> None:
        super().__init__()
        self.time_padding = time_padding
        channels = size.channels
        stem = DepthwiseConv2d(channels, STEM, size.stem_stride, time_padding=time_padding)
        self.stem = nn.Sequential(stem, *_norm(channels))
        self.blocks = nn.Sequential(*(_block(channels, stride, time_padding) for stride in size.strides))
        self.linear = nn.Linear(channels, classes)
        self.stem_stride = size.stem_stride
        self.apply(_init)

    def maps(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            # For oneDNN: 442 -> 256 ms for forward + backward of S and 4.4 -> 3.2 s of L at (64, 1, 40, 101) on one
            # core.
            x = x.to(memory_format=torch.channels_last)
        x = pad_same(x, STEM, self.stem_stride, frames=self.time_padding == "same")
        return self.blocks(self.stem(x))  # type: ignore[no-any-return]

    def classify(self, mean: Tensor) -> Tensor:
        return self.linear(mean)  # type: ignore[no-any-return]


def build_ds_cnn(
    num_classes: int, in_shape: tuple[int, int, int], *, size: str, time_padding: TimePadding = "same"
) -> DSCNN:
    """DS-CNN of size "s", "m" or "l". It works for any F and N of at least `smallest`, so `in_shape` is not used."""
    return DSCNN(num_classes, SIZES[size], time_padding)


def _block(channels: int, stride: int, time_padding: TimePadding) -> nn.Sequential:
    depthwise = DepthwiseConv2d(channels, (3, 3), (stride, stride), pad=1, time_padding=time_padding)
    return nn.Sequential(depthwise, *_norm(channels), Pointwise(channels, channels), *_norm(channels))


def _norm(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.04), nn.ReLU()


def _init(module: nn.Module) -> None:
    if isinstance(module, DepthwiseConv2d):
        nn.init.xavier_uniform_(module.weight.unsqueeze(1))
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def pad_same(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], frames: bool = True) -> Tensor:
    """Pads (B, C, F, N) with zeros so that the convolution has ceil(n / stride) positions; an odd one at the end.

    `frames`: also the frames, not only the bands.
    """
    padding: list[int] = [] if frames else [0, 0]
    for axis in (1, 0) if frames else (0,):
        length = x.shape[2 + axis]
        total = max((-(-length // stride[axis]) - 1) * stride[axis] + kernel[axis] - length, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)
