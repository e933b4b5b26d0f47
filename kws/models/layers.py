"""Layers that three or more of the image networks share: convolutions, stems, bottlenecks, He initialisation.

Every convolution is padded so that it keeps F and N at stride 1, and halves them, rounding up, at stride 2.
"""

from torch import Tensor, nn


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias: (B, Cin, H, W) -> (B, Cout, H / stride, W / stride)."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def stem(in_channels: int, width: int, small: bool) -> nn.Sequential:
    """(B, in_channels, F, N) -> (B, width, F / 4, N / 4): 7x7 with stride 2, then max pooling.

    `small`: one 3x3 with stride 1, which keeps F and N.
    """
    norm = [nn.BatchNorm2d(width), nn.ReLU()]
    if small:
        return nn.Sequential(conv(in_channels, width), *norm)
    return nn.Sequential(conv(in_channels, width, 7, 2), *norm, nn.MaxPool2d(3, 2, 1))


def bottleneck(c_in: int, inner: int, c_out: int, stride: int, groups: int = 1) -> nn.Sequential:
    """1x1 to `inner` channels, 3x3 in `groups` with `stride`, 1x1 to `c_out`; batch norm after each, no final ReLU."""
    return nn.Sequential(
        conv(c_in, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(),
        conv(inner, inner, 3, stride, groups), nn.BatchNorm2d(inner), nn.ReLU(),
        conv(inner, c_out, 1), nn.BatchNorm2d(c_out),
    )  # fmt: skip


def projection(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """Shortcut for a block that changes the shape: 1x1 with `stride`, batch norm."""
    return nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class Staged(nn.Module):
    """`stem`, `stages`, global average pooling, `linear`: (B, in_channels, F, N) -> logits (B, classes)."""

    stem: nn.Module
    stages: nn.Module
    linear: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.stages(self.stem(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def smallest(stages: int, small: bool) -> tuple[int, int]:
    """Smallest (F, N): all stages but the first halve both, and the large stem halves both twice."""
    side = 2 ** (stages - 1) * (1 if small else 4)
    return side, side


def init_he(module: nn.Module) -> None:
    """For `model.apply`: convolutions as He et al. 2015 (fan out), linear weights as in torch, biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
