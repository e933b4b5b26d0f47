"""Networks on a GPU that is not there (tests/fake_cuda.py): no tensor is left on the host, and nothing waits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kws.models import recompute, registry
from tests.fake_cuda import DEVICE, fake_cuda, to_fake_cuda

pytestmark = pytest.mark.xdist_group("device")  # torch imports its compiler for fake tensors: once
SHAPE = (1, 40, 101)
# The smallest network of each family.
FAMILIES = (
    "bcresnet_1", "densenet_bc_100_12", "dpn92", "ds_cnn_s", "kwt_1", "matchboxnet_3x1x64", "res8_narrow",
    "resnet18_small", "resnet20", "tc_resnet8", "vgg_a", "wrn_40_2_b31",
)  # fmt: skip
QUICK = ("matchboxnet_3x1x64", "res8_narrow")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_forward_and_backward_of_every_family_on_one_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    network = registry.build_model(name, 4, SHAPE).train()
    recompute.set_gradient_checkpointing(network, True)
    with fake_cuda(monkeypatch) as copies:
        to_fake_cuda(network)
        logits = network(torch.zeros(3, *SHAPE, device=DEVICE))
        F.cross_entropy(logits, torch.zeros(3, dtype=torch.int64, device=DEVICE)).backward()
        assert all(p.grad is not None and p.grad.device == DEVICE for p in network.parameters())
    assert (copies.uploads, copies.downloads) == ([], [])
