"""The CIFAR ResNet: He et al., CVPR 2016, arXiv 1512.03385, section 4.2 and table 6.

On features (B, 1, F, N):

    stem    3x3 -> 16
    stage1  n basic blocks, 16
    stage2  n basic blocks, 32, the first with stride 2
    stage3  n basic blocks, 64, the first with stride 2
    head    global mean, linear

The depth is 6n + 2; shortcuts have no parameters (option A). Trainable parameters with one input channel:

    depth        20        32        44        56
    paper     0.27 M    0.46 M    0.66 M    0.85 M
    10 cl.   269,434   463,866   658,298   852,730    as the paper's, less 288 stem weights (1 channel, not 3)
    35 cl.   271,059   465,491   659,923   854,355
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.errors import UsageError

PAPER = "He et al., Deep Residual Learning, CVPR 2016, arXiv 1512.03385, section 4.2"
SMALLEST = (4, 4)  # bands, frames: two stages halve both
WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (option A): (B, Cin, H, W) -> (B, Cout, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(c_in, c_out, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = _conv(c_out, c_out), nn.BatchNorm2d(c_out)
        self.stride, self.grow = stride, c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self._shortcut(x))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Option A: every `stride`-th position; the missing channels are zeros."""
        if self.stride == 1 and self.grow == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.grow))


class ResNetCifar(nn.Module):
    """(B, 1, F, N) features to (B, classes) logits."""

    def __init__(self, classes: int, depth: int) -> None:
        super().__init__()
        per_stage = _blocks_per_stage(depth)
        self.conv0, self.norm0 = _conv(1, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0])
        self.stage1 = _stage(WIDTHS[0], WIDTHS[0], 1, per_stage)
        self.stage2 = _stage(WIDTHS[0], WIDTHS[1], 2, per_stage)
        self.stage3 = _stage(WIDTHS[1], WIDTHS[2], 2, per_stage)
        self.linear = nn.Linear(WIDTHS[2], classes)
        self.apply(_init)

    def forward(self, x: Tensor) -> Tensor:
        # Channels-last format from here on is faster with oneDNN: 460 -> 328 ms for forward + backward of resnet32 at
        # (64, 1, 32, 32) and 1853 -> 1345 ms at (64, 1, 40, 101) on one core.
        x = self.conv0(x).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.norm0(x))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def build_cifar_resnet(num_classes: int, in_shape: tuple[int, int, int], *, depth: int) -> ResNetCifar:
    """The ResNet of `depth` 6n + 2. It works for any F and N of at least `SMALLEST`, so `in_shape` is not used."""
    return ResNetCifar(num_classes, depth)


def _blocks_per_stage(depth: int) -> int:
    if depth < 8 or depth % 6 != 2:
        raise UsageError(f"CIFAR ResNet depth {depth}: wanted 6n + 2, such as 20, 32, 44 or 56")
    return (depth - 2) // 6


def _stage(c_in: int, c_out: int, stride: int, blocks: int) -> nn.Sequential:
    rest = [BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(c_in, c_out, stride), *rest)


def _conv(c_in: int, c_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
