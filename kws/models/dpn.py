"""Dual path networks (DPN): Chen et al., NeurIPS 2017, arXiv 1707.01629, section 4 and table 1.

On features (B, in_channels, F, N). Some channels of a block's output are added to its input, as in a residual network;
the others are appended, as in a DenseNet:

    x = [residual | dense]  -> 1x1, 3x3 in 32 groups, 1x1 ->  [r | d]
    next x = [residual + r | dense, d]

    DPN-92    blocks    inner    residual    increment    channels after each block
    stage 1        3       96         256           16    288, 304, 320
    stage 2        4      192         512           32    576 ... 672
    stage 3       20      384        1024           24    1072 ... 1528
    stage 4        3      768        2048          128    2304, 2432, 2560

34,299,507 trainable parameters with 1 input channel and 35 classes, 34,236,634 with 3 channels and 10 classes.

This is the form for small images: a 3x3 stem of 64 channels, strides 1, 2, 2, 2, batch norm after each convolution. The
authors' ImageNet code has batch norm before each convolution, a 7x7 stem and a projection that is one increment wider.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.layers import Staged, bottleneck, init_he, projection, stem

PAPER = "Chen et al., Dual Path Networks, NeurIPS 2017, arXiv 1707.01629"
STEM = 64
RESIDUAL = 256  # channels of the first stage; doubled in each later stage, as `inner` is


class Block(nn.Module):
    """(B, residual + dense, H, W) -> (B, residual + dense + increment, H / stride, W / stride).

    `projected` (the first block of a stage): the whole input is projected to residual + increment channels.
    """

    def __init__(
        self, c_in: int, inner: int, residual: int, increment: int, stride: int, groups: int, projected: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.body = bottleneck(c_in, inner, residual + increment, stride, groups)
        self.shortcut = projection(c_in, residual + increment, stride) if projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x, y, r = self.shortcut(x), self.body(x), self.residual
        return F.relu(torch.cat([x[:, :r] + y[:, :r], x[:, r:], y[:, r:]], dim=1))


class DPN(Staged):
    """(B, in_channels, F, N) features to (B, classes) logits. `inner`: width of the first stage's 3x3, in `groups`."""

    def __init__(
        self, in_channels: int, classes: int, blocks: Sequence[int], increments: Sequence[int], inner: int, groups: int
    ) -> None:
        super().__init__()
        self.stem = stem(in_channels, STEM, small=True)
        self.stages, c_in = nn.Sequential(), STEM
        for i, (count, increment) in enumerate(zip(blocks, increments, strict=True)):
            residual = RESIDUAL * 2**i
            body = partial(Block, inner=inner * 2**i, residual=residual, increment=increment, groups=groups)
            first = body(c_in, stride=2 if i else 1, projected=True)
            rest = (body(residual + (1 + j) * increment, stride=1, projected=False) for j in range(1, count))
            self.stages.append(nn.Sequential(first, *rest))
            c_in = residual + (1 + count) * increment
        self.linear = nn.Linear(c_in, classes)
        self.apply(init_he)


def build_dpn(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    blocks: Sequence[int],
    increments: Sequence[int],
    inner: int,
    groups: int = 32,
) -> DPN:
    """A DPN with `blocks` per stage for features of shape (in_channels, F, N) with any F and N."""
    return DPN(in_shape[0], num_classes, blocks, increments, inner, groups)
