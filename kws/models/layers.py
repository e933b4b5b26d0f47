"""What three or more of the image networks are made of: convolutions without bias, stems, bottlenecks, He weights.

Every convolution keeps F and N at stride 1 and halves them, rounding up, at stride 2.
"""

from torch import Tensor, nn


def conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Without bias: (B, Cin, H, W) -> (B, Cout, H / stride, W / stride)."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def stem(planes: int, width: int, small: bool) -> nn.Sequential:
    """(B, planes, F, N) -> (B, width, F / 4, N / 4): 7x7 of stride 2 and max pool. `small`: one 3x3, F and N kept."""
    norm = [nn.BatchNorm2d(width), nn.ReLU()]
    if small:
        return nn.Sequential(conv(planes, width), *norm)
    return nn.Sequential(conv(planes, width, 7, 2), *norm, nn.MaxPool2d(3, 2, 1))


def bottleneck(c_in: int, inner: int, c_out: int, stride: int, groups: int = 1) -> nn.Sequential:
    """1x1 -> inner, 3x3 in `groups` with `stride`, 1x1 -> c_out, each with batch norm; no activation at the end."""
    return nn.Sequential(
        conv(c_in, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(),
        conv(inner, inner, 3, stride, groups), nn.BatchNorm2d(inner), nn.ReLU(),
        conv(inner, c_out, 1), nn.BatchNorm2d(c_out),
    )  # fmt: skip


def projection(c_in: int, c_out: int, stride: int) -> nn.Sequential:
    """The shortcut where the shape changes: 1x1 with `stride` and batch norm."""
    return nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))


class Staged(nn.Module):
    """(B, planes, F, N) through `stem` and `stages` to (B, C, f, n), mean over what is left of F and N, `linear`:
    (B, classes) logits."""

    stem: nn.Module
    stages: nn.Module
    linear: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.stages(self.stem(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


def smallest(stages: int, small: bool) -> tuple[int, int]:
    """Bands and frames that the strides leave one position of: all stages but the first halve, the large stem twice."""
    side = 2 ** (stages - 1) * (1 if small else 4)
    return side, side


def init_he(module: nn.Module) -> None:
    """For `model.apply`: He et al. 2015 over the fan out for convolutions; linear ones as torch has them; biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
