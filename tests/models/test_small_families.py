"""Properties of every network of BC-ResNet, DS-CNN, res8/15/26 and KWT."""

import pytest
import torch
import torch.nn.functional as F

from kws.models.registry import MODELS, build_model
from tests.models.checks import assert_trains

FAMILIES = ("bcresnet", "ds_cnn", "res_kws", "kwt")
ONE_OF_EACH = ["bcresnet_1", "ds_cnn_s", "ds_cnn_m", "res8_narrow", "res15_narrow", "kwt_1"]
NAMES = [
    pytest.param(name, marks=() if name in ONE_OF_EACH else pytest.mark.slow)
    for name, entry in MODELS.items()
    if entry.family in FAMILIES
]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 13, 30), pytest.param((1, 32, 32), marks=pytest.mark.slow)])
def test_trains_at_two_sizes(name: str, shape: tuple[int, int, int]) -> None:
    assert_trains(build_model(name, 5, shape), shape, 5, clips=3)


@pytest.mark.parametrize("name", NAMES)
def test_logits_of_a_clip_do_not_depend_on_its_batch(name: str) -> None:
    shape = (1, 20, 33)
    model, x = build_model(name, 5, shape), torch.randn(5, *shape)
    with torch.no_grad():
        model(x)  # so that running statistics are not the initial ones
        whole = model.eval()(x)
        parts = torch.cat([model(x[:1]), model(x[1:3]), model(x[3:])])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_runs_in_other_precisions(name: str, dtype: torch.dtype) -> None:
    model = build_model(name, 5, (1, 16, 20)).to(dtype)
    logits = model(torch.randn(3, 1, 16, 20, dtype=dtype))
    logits.sum().backward()
    assert logits.dtype == dtype
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("layout", [pytest.param(torch.contiguous_format, marks=pytest.mark.slow), torch.channels_last])
@pytest.mark.parametrize("low", [False, True])
def test_gradients_have_the_strides_of_their_weights(name: str, layout: torch.memory_format, low: bool) -> None:
    """DistributedDataParallel copies other gradients and warns."""
    model = build_model(name, 5, (1, 32, 32)).to(memory_format=layout)
    x = torch.randn(3, 1, 32, 32).to(memory_format=layout)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        loss = F.cross_entropy(model(x), torch.tensor([0, 1, 2]))
    loss.backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.stride() == p.stride(), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bcresnet_3", "ds_cnn_s", "res8_narrow", "kwt_1"])
def test_learns_eight_clips_of_noise(name: str) -> None:
    model, x, y = build_model(name, 2, (1, 20, 24)), torch.randn(8, 1, 20, 24), torch.arange(8) % 2
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = F.cross_entropy(model(x), y)
        if loss < 0.2:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is still {loss.item():.2f}")
