"""ResNet: He et al., CVPR 2016, arXiv 1512.03385, table 1; ResNeXt: Xie et al., CVPR 2017, arXiv 1611.05431.

A ResNeXt is a ResNet whose bottlenecks' 3x3 convolutions have `cardinality` groups, so one builder makes both. On
features (B, in_channels, F, N):

    stem    7x7 with stride 2 and 3x3 max pooling; `small_stem`: one 3x3 with stride 1, better for 32 x 32 features
    stages  widths 64, 128, 256, 512 (times 4 after a bottleneck), all but the first with stride 2
    head    global mean, linear

Trainable parameters with 1 input channel and 35 classes, for any F x N, and with the paper's 3 channels and 1,000
classes:

                        blocks      1 channel, 35    small stem  3 channels, 1,000
    resnet18            2, 2, 2, 2     11,188,195    11,185,635         11,689,512
    resnet34            3, 4, 6, 3     21,296,355    21,293,795         21,797,672
    resnet50            3, 4, 6, 3     23,573,475    23,570,915         25,557,032
    resnet101           3, 4, 23, 3    42,565,603    42,563,043         44,549,160
    resnet152           3, 8, 36, 3    58,209,251    58,206,691         60,192,808
    resnext50_32x4d     3, 4, 6, 3     23,045,347                       25,028,904
    resnext101_32x4d    3, 4, 23, 3    42,194,147                       44,177,704
    resnext29_8x64      3, 3, 3                      34,451,171         34,426,698    3 channels, 10 classes

resnet18 and 34 have two 3x3 convolutions per block; the others have bottlenecks with the stride in the 3x3 convolution.
The paper has the stride in the 1x1 before it, which would ignore three quarters of the positions.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.layers import Staged, bottleneck, conv, init_he, projection, stem

PAPER = "He et al., Deep Residual Learning, CVPR 2016, arXiv 1512.03385, table 1"
PAPER_RESNEXT = "Xie et al., ResNeXt, CVPR 2017, arXiv 1611.05431"
STEM = 64
EXPANSION = 4  # output channels of a bottleneck / width of its stage


class Residual(nn.Module):
    """ReLU(body + shortcut), which is projected where the shape changes.

    (B, Cin, H, W) -> (B, Cout, H / stride, W / stride).
    """

    def __init__(self, c_in: int, c_out: int, stride: int, body: nn.Module) -> None:
        super().__init__()
        self.body, changes = body, stride > 1 or c_in != c_out
        self.shortcut = projection(c_in, c_out, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(Staged):
    """(B, in_channels, F, N) features to (B, classes) logits.

    `blocks`: how many each stage has. The 3x3 convolutions of the first stage have `cardinality` groups of `width`
    channels; the width doubles in each later stage. Cardinality 0 means blocks of two 3x3 convolutions.
    """

    def __init__(
        self, in_channels: int, classes: int, blocks: Sequence[int], cardinality: int, width: int, small_stem: bool
    ) -> None:
        super().__init__()
        self.stem = stem(in_channels, STEM, small_stem)
        self.stages, c_in = nn.Sequential(), STEM
        for i, count in enumerate(blocks):
            c_out = STEM * 2**i * (EXPANSION if cardinality else 1)
            self.stages.append(_stage(c_in, c_out, 2 if i else 1, count, cardinality, width * 2**i))
            c_in = c_out
        self.linear = nn.Linear(c_in, classes)
        self.apply(init_he)


def build_resnet(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    blocks: Sequence[int],
    cardinality: int = 1,
    width: int = 64,
    small_stem: bool = False,
) -> ResNet:
    """Cardinality 0: ResNet-18 and -34; 1: ResNet-50 and deeper; more: ResNeXt. `blocks`: how many each stage has."""
    return ResNet(in_shape[0], num_classes, blocks, cardinality, width, small_stem)


def _stage(c_in: int, c_out: int, stride: int, count: int, cardinality: int, width: int) -> nn.Sequential:
    def block(c_in: int, stride: int) -> Residual:
        if cardinality == 0:
            return Residual(c_in, c_out, stride, _basic(c_in, c_out, stride))
        body = bottleneck(c_in, cardinality * width, c_out, stride, cardinality)
        return Residual(c_in, c_out, stride, body)

    return nn.Sequential(block(c_in, stride), *(block(c_out, 1) for _ in range(count - 1)))


def _basic(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    first = [conv(c_in, c_out, 3, stride), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(*first, conv(c_out, c_out), nn.BatchNorm2d(c_out))
