"""DenseNet-BC: Huang et al., CVPR 2017, arXiv 1608.06993, section 3 and table 1.

On features (B, in_channels, F, N), with growth rate k:

    stem         3x3 -> 2k (`small_stem`), or 7x7 -> 2k with stride 2, batch norm, ReLU, 3x3 max pooling
    blocks       layers of batch norm, ReLU, 1x1 -> 4k, batch norm, ReLU, 3x3 -> k, on all outputs before them
    transitions  between blocks: batch norm, ReLU, 1x1 that halves the channels, 2x2 mean
    head         batch norm, ReLU, global mean, linear

With the small stem there are three blocks of (depth - 4) / 6 layers, with the large one the four of table 1. Trainable
parameters:

    small stem                 100, k 12     250, k 24     190, k 40
    1 channel,  35 classes       777,305    15,366,917    25,677,765
    3 channels, 10 classes       769,162    15,324,406    25,624,430    paper: 0.8 M, 15.3 M, 25.6 M

    large stem, k 32                 121           169           201           264
    1 channel,  35 classes     6,983,459    12,536,483    18,153,891    30,736,547
    3 channels, 1,000          7,978,856    14,149,480    20,013,928    33,337,704

The concatenation, batch norm and ReLU in a layer have as many channels as all outputs before it, so memory grows with
the square of the depth. Gradient checkpointing recomputes them (Pleiss et al. 2017, arXiv 1707.06990), and memory grows
linearly. Kept for the backward pass of one 32 x 32 clip in float32: 35 -> 12 MB (100, k 12), 351 -> 74 MB (190, k 40),
for a quarter more time (CPU).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.layers import conv, init_he, stem
from kws.models.recompute import Recomputable

PAPER = "Huang et al., DenseNet, CVPR 2017, arXiv 1608.06993"


class Squeeze(Recomputable):
    """Concatenation, batch norm, ReLU, 1x1, dropout: several (B, Ci, H, W), Cin in all -> (B, Cout, H, W)."""

    def __init__(self, c_in: int, c_out: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.conv, self.dropout = nn.BatchNorm2d(c_in), conv(c_in, c_out, 1), nn.Dropout(dropout)

    def compute(self, *inputs: Tensor) -> Tensor:
        """The whole module; it is recomputed in the backward pass."""
        x = F.relu(self.norm(torch.cat(inputs, dim=1)))
        return self.dropout(self.conv(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """All outputs before this layer, Cin channels together -> (B, growth, H, W)."""

    def __init__(self, c_in: int, growth: int, dropout: float) -> None:
        super().__init__()
        inner = 4 * growth
        self.squeeze = Squeeze(c_in, inner, dropout)
        self.grow = nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU(), conv(inner, growth), nn.Dropout(dropout))

    def forward(self, before: Sequence[Tensor]) -> Tensor:
        return self.grow(self.squeeze(*before))  # type: ignore[no-any-return]


class Block(nn.Module):
    """(B, Cin, H, W) -> the input and every layer's output, Cin + layers * growth channels together."""

    def __init__(self, c_in: int, layers: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(c_in + i * growth, growth, dropout) for i in range(layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs))
        return outputs


class DenseNet(nn.Module):
    """(B, in_channels, F, N) features to (B, classes) logits. `layers`: how many each block has."""

    def __init__(
        self, in_channels: int, classes: int, layers: Sequence[int], growth: int, small_stem: bool, dropout: float
    ) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = conv(in_channels, width) if small_stem else stem(in_channels, width, small=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for i, count in enumerate(layers):
            self.blocks.append(Block(width, count, growth, dropout))
            width += count * growth
            if i + 1 < len(layers):
                self.transitions.append(Squeeze(width, width // 2, dropout))
                width //= 2
        self.norm, self.linear = nn.BatchNorm2d(width), nn.Linear(width, classes)
        self.apply(init_he)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks[:-1], self.transitions, strict=True):
            x = F.avg_pool2d(transition(*block(x)), 2)
        x = F.relu(self.norm(torch.cat(self.blocks[-1](x), dim=1)))
        return self.linear(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def build_densenet(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    layers: Sequence[int],
    growth: int,
    small_stem: bool,
    dropout: float = 0.0,
) -> DenseNet:
    """DenseNet-BC for features of shape (in_channels, F, N) with any F and N; `layers`: how many each block has."""
    return DenseNet(in_shape[0], num_classes, layers, growth, small_stem, dropout)
