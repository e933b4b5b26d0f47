"""Each large image network can overfit 32 real clips; with a wrong layer, shortcut or initialisation it cannot."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kws.audio.features import Features
from kws.data.excerpt import Excerpt
from kws.data.index import Index
from kws.data.plan import Slot
from kws.data.reader import Reader
from kws.data.stream import SlotReader
from kws.models.recompute import set_gradient_checkpointing
from kws.models.registry import build_model

CLIPS = 32
# Adam's learning rate, and about twice the number of updates that were needed. One update of the slow networks takes 10
# to 60 s on one core.
RECIPES = {
    "resnet32": (3e-3, 20),
    "densenet_bc_100_12": (1e-2, 20),
    "vgg19_bn": (3e-4, 30),
    "wrn_28_10": (1e-3, 16),
    "wrn_28_10_dropout": (1e-3, 34),
    "wrn_52_10": (1e-3, 28),
    "resnext29_8x64": (1e-3, 12),
    "dpn92": (1e-3, 20),
    "densenet_bc_190_40": (3e-3, 16),
}
QUICK = ("resnet32",)


@pytest.fixture(scope="module")
def clips(real_mini: Index) -> tuple[Tensor, Tensor]:
    """mel32 features (32, 1, 32, 32) and words (32,) of the first clips."""
    first = np.arange(CLIPS)
    batch = SlotReader(Reader(real_mini, "train"), range(len(real_mini.words)), Excerpt(16000)).batch(
        Slot(0, 0, first, first)
    )
    return Features("mel32")(batch.wave), batch.labels


def updates_to_learn(model: nn.Module, x: Tensor, y: Tensor, lr: float, most: int) -> int | None:
    """Number of Adam updates until every clip is classified correctly in training mode; None after `most`."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for update in range(most + 1):
        logits = model(x)
        if torch.equal(logits.argmax(dim=1), y):
            return update
        optimizer.zero_grad()
        F.cross_entropy(logits, y).backward()
        optimizer.step()
    return None


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in QUICK else pytest.mark.heavy) for name in RECIPES]
)
def test_it_overfits_32_real_clips(name: str, clips: tuple[Tensor, Tensor]) -> None:
    x, y = clips
    torch.manual_seed(0)
    lr, most = RECIPES[name]
    model = build_model(name, 35, (1, 32, 32))
    set_gradient_checkpointing(model, True)  # densenet_bc_190_40 would keep 11 GB
    assert updates_to_learn(model, x, y, lr, most) is not None
