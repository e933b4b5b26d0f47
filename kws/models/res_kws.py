"""res8, res15, res26 and their narrow forms: Tang & Lin, ICASSP 2018, arXiv 1710.10361, section 3 and tables 1 to 3.

    stem    3x3 -> C, ReLU, mean over patches (none in res15)
    layers  3x3, ReLU, batch norm; every second layer adds the shortcut of its pair before its norm
    head    global mean, linear

res15 dilates layer i by 2^(i // 3) on both axes and ends with a single layer of dilation 16 without a shortcut; the
others reduce both axes at the start instead. Convolutions have no bias, norms neither scale nor shift. Parameters:

                  res8    res8_narrow      res15    res15_narrow      res26    res26_narrow
    C               45             19         45              19         45              19
    layers           6              6         13              13         24              24
    patch        4 x 3          4 x 3                                 2 x 2           2 x 2    frames x bands
    paper        110 K         19.9 K      238 K          42.6 K      438 K          78.4 K
    12 classes 110,307         19,905    237,882          42,648    438,357          78,387
    35 classes 111,365         20,365    238,940          43,108    439,415          78,847

Weights are initialised as torch's convolutions are, as in the authors' code.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.depthwise import DepthwiseConv2d

PAPER = "Tang & Lin, Deep Residual Learning for Small-Footprint Keyword Spotting, ICASSP 2018, arXiv 1710.10361"
LAYERS = {8: 6, 15: 13, 26: 24}
PATCH = {8: (3, 4), 15: (1, 1), 26: (2, 2)}  # (bands, frames) of the mean; also the smallest features
WIDE, NARROW = 45, 19


class Layer(nn.Module):
    """Returns y = relu(conv(x)) [+ shortcut] and norm(y): (B, C, H, W) -> two tensors of the same shape."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, shortcut: Tensor | None) -> tuple[Tensor, Tensor]:
        y = F.relu(self._with_padded_channels(x) if self._is_unsafe(x) else self.conv(x))
        if shortcut is not None:
            y = y + shortcut
        return y, self.norm(y)

    def _is_unsafe(self, x: Tensor) -> bool:
        """Whether the plain convolution would hit a bug in oneDNN.

        Its weight gradient of a dilated bfloat16 convolution in channels-last format writes out of bounds where the
        number of channels is not a multiple of 16: NaN at dilation 2, a crash at 8 (torch 2.13, oneDNN 3.12, AVX-512).
        """
        low = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        return self.conv.dilation[0] > 1 and x.device.type == "cpu" and low

    def _with_padded_channels(self, x: Tensor) -> Tensor:
        """The convolution with zero channels added up to the next multiple of 16."""
        spare, dilation = -x.shape[1] % 16, self.conv.dilation
        weight = F.pad(self.conv.weight, (0, 0, 0, 0, 0, spare, 0, spare))
        return F.conv2d(F.pad(x, (0, 0, 0, 0, 0, spare)), weight, None, 1, dilation, dilation)[:, : x.shape[1]]


class Res(nn.Module):
    """(B, 1, F, N) features to (B, classes) logits."""

    def __init__(self, classes: int, depth: int, channels: int) -> None:
        super().__init__()
        self.stem = DepthwiseConv2d(channels, (3, 3), pad=1)
        self.patch = PATCH[depth]
        dilations = [2 ** (i // 3) if depth == 15 else 1 for i in range(LAYERS[depth])]
        self.layers = nn.ModuleList(Layer(channels, dilation) for dilation in dilations)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            # For oneDNN: 107 -> 64 ms for forward + backward of res8_narrow and 2.5 -> 1.5 s of res15_narrow at
            # (64, 1, 40, 101) on one core; with C = 45 a fifth.
            x = x.to(memory_format=torch.channels_last)
        x = shortcut = F.avg_pool2d(F.relu(self.stem(x)), self.patch)
        for i, layer in enumerate(self.layers):
            y, x = layer(x, shortcut if i % 2 else None)
            shortcut = y if i % 2 else shortcut
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def build_res_kws(num_classes: int, in_shape: tuple[int, int, int], *, depth: int, channels: int = WIDE) -> Res:
    """res{depth}. It works for any F and N of at least `PATCH[depth]`, so `in_shape` is not used."""
    return Res(num_classes, depth, channels)
