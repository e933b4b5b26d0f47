"""MatchboxNet-BxRxC: Majumdar & Ginsburg, Interspeech 2020, arXiv 2004.08531, section 2 and table 1.

Time-channel separable 1-D convolutions over (B, F, N): the F frequency bands are the input channels.

    Conv1   kernel 11, stride 2 -> 128   separable
    B1..BB  kernel 13, 15, 17 ... -> C   R separable sub-blocks + residual (1x1 and batch norm)
    Conv2   kernel 29, dilation 2 -> 128 separable
    Conv3   kernel 1 -> 128              plain
    Conv4   mean over time, then 128 -> classes

Trainable parameters with F = 64:

                   3x1x64    3x2x64   3x2x112    6x2x64
    paper            77 K      93 K     177 K     140 K
    30 classes     77,214    92,766   176,286   138,846
    35 classes     77,859    93,411   176,931   139,491

What the paper does not say follows the authors' NeMo training files: no dropout, Xavier initialisation, batch norm eps
1e-3, a residual projection in every block. Those files have stride 1 in Conv1, which means twice the frames and twice
the work; `MatchboxNet(stride=1)` is that network.
"""

import torch.nn.functional as F
from torch import Tensor, nn

PAPER = "Majumdar & Ginsburg, MatchboxNet, Interspeech 2020, arXiv 2004.08531"
SMALLEST = (1, 2)  # bands, frames: Conv1 halves the frames
EDGE = 128  # channels of Conv1, Conv2 and Conv3


class DepthwiseConv1d(nn.Conv1d):
    """One filter of length `kernel` per channel: (B, C, N) -> (B, C, ceil(N / stride)); parameters as in `nn.Conv1d`.

    Computed as a 2-d convolution: time is its height axis, and the `dilation` interleaved phases are its width axis.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        if kernel % 2 == 0 or (stride > 1 and dilation > 1):
            raise ValueError(f"kernel {kernel} must be odd, and one of stride {stride}, dilation {dilation} must be 1")
        pad = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, pad, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # oneDNN's fast depthwise kernels (above all for the backward pass) need a 2-d convolution of dilation 1 whose
        # height exceeds the kernel; with a stride, also explicit padding. Measured against nn.Conv1d on one core, with
        # the same results: a layer is 5 times faster, forward + backward of 3x1x64 at (64, 1, 40, 101) 77 -> 46 ms.
        frames, pad, stride, phases = x.shape[2], int(self.padding[0]), self.stride[0], self.dilation[0]
        edge = pad if stride > 1 else 0
        tail = max(-(-frames // phases), self.kernel_size[0] + 1) * phases - frames
        if edge or tail:
            x = F.pad(x, (edge, edge + tail))
        x = x.reshape(x.shape[0], x.shape[1], -1, phases)
        y = F.conv2d(x, self.weight.unsqueeze(3), None, (stride, 1), ((pad - edge) // phases, 0), 1, self.groups)
        return y.flatten(2)[..., : (frames - 1) // stride + 1]


class Separable(nn.Module):
    """Depthwise in time, pointwise over channels, batch norm, no activation: (B, Cin, N) -> (B, Cout, N / stride)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv1d(c_in, kernel, stride, dilation)
        self.pointwise = nn.Conv1d(c_in, c_out, 1, bias=False)
        self.norm = _norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """R separable sub-blocks; the 1x1 residual is added before the last activation. (B, Cin, N) -> (B, C, N)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, repeat: int, dropout: float) -> None:
        super().__init__()
        self.subs = nn.ModuleList(Separable(c_out if r else c_in, c_out, kernel) for r in range(repeat))
        self.residual = nn.Sequential(nn.Conv1d(c_in, c_out, 1, bias=False), _norm(c_out))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.subs[0](x)
        for sub in self.subs[1:]:
            y = sub(self.dropout(F.relu(y)))
        return self.dropout(F.relu(y + self.residual(x)))  # type: ignore[no-any-return]


class MatchboxNet(nn.Module):
    """(B, 1, F, N) features to (B, classes) logits. `dropout` 0 is what the authors' published training files use."""

    def __init__(
        self, bands: int, classes: int, blocks: int, repeat: int, channels: int, stride: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        widths = [EDGE] + [channels] * blocks
        self.conv1 = Separable(bands, EDGE, 11, stride=stride)
        self.blocks = nn.Sequential(
            *(Block(widths[i], widths[i + 1], 13 + 2 * i, repeat, dropout) for i in range(blocks))
        )
        self.conv2 = Separable(channels, EDGE, 29, dilation=2)
        self.conv3 = nn.Sequential(nn.Conv1d(EDGE, EDGE, 1, bias=False), _norm(EDGE))
        self.conv4 = nn.Linear(EDGE, classes)
        self.dropout = nn.Dropout(dropout)
        self.apply(_init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.conv1(x.squeeze(1))))
        x = self.blocks(x)
        x = self.dropout(F.relu(self.conv2(x)))
        x = self.dropout(F.relu(self.conv3(x)))
        return self.conv4(x.mean(dim=2))  # type: ignore[no-any-return]


def build_matchboxnet(
    num_classes: int, in_shape: tuple[int, int, int], *, blocks: int, repeat: int, channels: int
) -> MatchboxNet:
    """MatchboxNet-{blocks}x{repeat}x{channels} for features of shape (1, F, N)."""
    return MatchboxNet(in_shape[1], num_classes, blocks, repeat, channels)


def _norm(channels: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(channels, eps=1e-3)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
