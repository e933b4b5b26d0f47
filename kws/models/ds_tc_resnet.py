"""DS-TC-ResNet of kws_streaming: Rybakov et al., Interspeech 2020, arXiv 2005.06720, and its experiments.

MatchboxNet (arXiv 2004.08531) with one sub-block per block and no stride, over (B, F, N); the layers are those of
google-research/kws_streaming, experiments/kws_experiments_75k_35_labels.md:

    first    kernel 11 -> 128                  separable
    blocks   kernel 13, 15, 17 -> 64           separable + residual (1x1 and batch norm)
    wide     kernel 29, dilation 2 -> 128      separable
    last     kernel 1 -> 128                   separable
    head     mean over time, then 128 -> classes

Trainable parameters with 40 features and 35 classes: 74,651, there "75K"; with 12 classes 71,684. An output depends on
109 frames. `causal` padding is what kws_streaming trains for streaming; `same` is the network of its experiments. Keras
defaults there: Xavier initialisation, batch norm eps 1e-3.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.separable import Block, Separable, init_xavier
from kws.models.time_context import TimeNetwork, TimePadding

PAPER = "Rybakov et al., Streaming keyword spotting on mobile devices, Interspeech 2020, arXiv 2005.06720"
SMALLEST = (1, 1)  # bands, frames
EDGE, WIDTH = 128, 64
KERNELS = (13, 15, 17)  # of the blocks


class DSTCResNet(TimeNetwork):
    """(B, 1, F, N) features to (B, classes) logits."""

    def __init__(self, bands: int, classes: int, dropout: float = 0.0, time_padding: TimePadding = "same") -> None:
        super().__init__()
        self.time_padding = time_padding
        self.first = Separable(bands, EDGE, 11, time_padding=time_padding)
        widths = (EDGE, WIDTH, WIDTH)
        self.blocks = nn.Sequential(
            *(
                Block(c_in, WIDTH, kernel, 1, dropout, time_padding)
                for c_in, kernel in zip(widths, KERNELS, strict=True)
            )
        )
        self.wide = Separable(WIDTH, EDGE, 29, dilation=2, time_padding=time_padding)
        self.last = Separable(EDGE, EDGE, 1, time_padding=time_padding)
        self.linear = nn.Linear(EDGE, classes)
        self.dropout = nn.Dropout(dropout)
        self.apply(init_xavier)

    def maps(self, x: Tensor) -> Tensor:
        x = self.blocks(self.dropout(F.relu(self.first(x.squeeze(1)))))
        for layer in (self.wide, self.last):
            x = self.dropout(F.relu(layer(x)))
        return x

    def classify(self, mean: Tensor) -> Tensor:
        return self.linear(mean)  # type: ignore[no-any-return]


def build_ds_tc_resnet(
    num_classes: int, in_shape: tuple[int, int, int], *, time_padding: TimePadding = "same"
) -> DSTCResNet:
    """DS-TC-ResNet for features of shape (1, F, N)."""
    return DSTCResNet(in_shape[1], num_classes, time_padding=time_padding)
