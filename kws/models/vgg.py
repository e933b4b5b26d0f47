"""VGG: Simonyan & Zisserman, ICLR 2015, arXiv 1409.1556, table 1.

On features (B, in_channels, F, N):

    stages  64, 128, 256, 512, 512 channels: 3x3 convolutions (in C the third of a stage is 1x1), then 2x2 max pooling
    head    flatten, 4096, 4096, classes; dropout 0.5 after both hidden layers

Trainable parameters:

    configuration    A          A-LRN      B          C          D          E
    layers           11         11         13         16         16         19
    paper            133 M      133 M      133 M      134 M      138 M      144 M   224 x 224, 3 channels, 1,000 classes
    exact      132,863,336     as A  133,047,848  133,638,952  138,357,544  143,667,240
    32 x 32     28,245,283     as A   28,429,795   29,020,899   33,739,491   39,049,187  1 channel, 35 classes

E with batch norm after every convolution (`vgg19_bn`) has 39,060,195. The first layer of the head has
512 (F / 32)(N / 32) inputs, so the number of parameters grows with F and N. A-LRN has local response normalisation
after the first convolution, with the values of Krizhevsky et al. 2012. Weights are initialised as in He et al. 2015;
the paper had to initialise deep networks from a trained A.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.models.layers import init_he

PAPER = "Simonyan & Zisserman, VGG, ICLR 2015, arXiv 1409.1556, table 1"
SMALLEST = (32, 32)  # bands, frames: five poolings halve both
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096
# Kernels of the convolutions, stage by stage.
CONFIGURATIONS: dict[str, Sequence[Sequence[int]]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3),) * 5,
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}


class LocalResponseNorm(nn.LocalResponseNorm):
    """(B, C, H, W) -> the same shape; on GPUs by operations whose backward pass is deterministic."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.device.type == "cpu" else self.by_slices(x)

    def by_slices(self, x: Tensor) -> Tensor:
        """torch uses avg_pool3d, whose gradients CUDA adds in any order (refused with train.deterministic)."""
        squares = F.pad(x.square(), (0, 0, 0, 0, self.size // 2, (self.size - 1) // 2))
        total = torch.stack([squares[:, first : first + x.shape[1]] for first in range(self.size)]).sum(dim=0)
        return x / (self.k + self.alpha / self.size * total).pow(self.beta)


class VGG(nn.Module):
    """(B, in_channels, F, N) features to (B, classes) logits, only for the F x N of `in_shape`."""

    def __init__(
        self, in_shape: tuple[int, int, int], classes: int, configuration: str, batch_norm: bool, lrn: bool
    ) -> None:
        super().__init__()
        in_channels, bands, frames = in_shape
        widths = zip(pairwise((in_channels, *WIDTHS)), CONFIGURATIONS[configuration], strict=True)
        stages = [_stage(c_in, c_out, kernels, batch_norm) for (c_in, c_out), kernels in widths]
        if lrn:  # Krizhevsky's alpha of 1e-4 multiplies the sum over 5 channels, torch's their mean
            stages[0].insert(2, LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
        self.stages = nn.Sequential(*stages)
        self.head = _head(WIDTHS[-1] * (bands // 32) * (frames // 32), classes)
        self.apply(init_he)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.stages(x), 1))  # type: ignore[no-any-return]


def build_vgg(
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    configuration: str,
    batch_norm: bool = False,
    lrn: bool = False,
) -> VGG:
    """VGG of `configuration` A to E for features of shape (in_channels, F, N); `lrn` turns A into A-LRN."""
    return VGG(in_shape, num_classes, configuration, batch_norm, lrn)


def _stage(c_in: int, width: int, kernels: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for kernel in kernels:
        layers.append(nn.Conv2d(c_in, width, kernel, padding=kernel // 2))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        c_in = width
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, HIDDEN), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(HIDDEN, classes),
    )  # fmt: skip
