import io

import pytest
import torch
import torch.nn.functional as F

from kws.errors import UsageError
from kws.models import MODELS, build, count_parameters

QUICK = ["matchboxnet_3x1x64", "resnet20", "tc_resnet8"]  # one of each family


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_names_are_the_public_list() -> None:
    assert sorted(MODELS) == [
        "matchboxnet_3x1x64",
        "matchboxnet_3x2x112",
        "matchboxnet_3x2x64",
        "matchboxnet_6x2x64",
        "resnet20",
        "resnet32",
        "resnet44",
        "resnet56",
        "tc_resnet14",
        "tc_resnet14_1.5",
        "tc_resnet8",
        "tc_resnet8_1.5",
    ]
    assert {e.family for e in MODELS.values()} == {"matchboxnet", "resnet_cifar", "tc_resnet"}
    assert all("arXiv" in e.paper for e in MODELS.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 40, 101), (1, 13, 30)])
def test_logits_for_two_input_sizes(name: str, shape: tuple[int, int, int]) -> None:
    model = build(name, 11, shape).eval()
    with torch.no_grad():
        assert model(torch.randn(2, *shape)).shape == (2, 11)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    model = build(name, 5, (1, 10, 24))
    F.cross_entropy(model(torch.randn(3, 1, 10, 24)), torch.tensor([0, 1, 4])).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_shape_works_and_one_less_is_refused(name: str) -> None:
    bands, frames = MODELS[name].smallest
    assert build(name, 4, (1, bands, frames)).eval()(torch.randn(1, 1, bands, frames)).shape == (1, 4)
    for bad in [(1, bands, frames - 1), (1, bands - 1, frames), (2, bands, frames)]:
        with pytest.raises(UsageError) as e:
            build(name, 4, bad)
        assert name in str(e.value)
        assert f"(1, {bands}, {frames})" in str(e.value)


@pytest.mark.parametrize(("wrong", "near"), [("resnet-32", "resnet32"), ("matchboxnet-3x1x64", "matchboxnet_3x1x64")])
def test_an_unknown_name_gets_the_nearest_and_the_list(wrong: str, near: str) -> None:
    with pytest.raises(UsageError) as e:
        build(wrong)
    assert repr(wrong) in str(e.value)
    assert f"nearest is {near!r}" in str(e.value)
    assert "kws models" in str(e.value)


def test_a_name_like_no_other_still_gets_a_usage_error() -> None:
    with pytest.raises(UsageError, match="kws models"):
        build("")


def test_no_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="num_classes is 0"):
        build("resnet20", 0)


def test_defaults_are_35_classes() -> None:
    assert build("tc_resnet8").eval()(torch.zeros(1, 1, 40, 101)).shape == (1, 35)


def test_count_leaves_out_frozen_parameters_and_buffers() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    assert count_parameters(model) == 8 + 4
    model[0].weight.requires_grad_(False)
    assert count_parameters(model) == 2 + 4


@pytest.mark.parametrize("name", QUICK)
def test_same_seed_same_weights(name: str) -> None:
    torch.manual_seed(7)
    a = build(name).state_dict()
    torch.manual_seed(7)
    b = build(name).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", QUICK)
def test_weights_survive_a_file(name: str) -> None:
    shape, file = (1, 16, 20), io.BytesIO()
    model, x = build(name, 3, shape).eval(), torch.randn(2, 1, 16, 20)
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = build(name, 3, shape).eval()
    assert not torch.equal(copy(x), model(x))
    copy.load_state_dict(torch.load(file))
    assert torch.equal(copy(x), model(x))


@pytest.mark.parametrize("name", QUICK)
def test_autocast_bfloat16_trains(name: str) -> None:
    model = build(name, 3, (1, 16, 20))
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(torch.randn(4, 1, 16, 20)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", QUICK)
def test_a_view_of_a_larger_batch_gives_the_same_logits(name: str) -> None:
    model, x = build(name, 3, (1, 16, 20)).eval(), torch.randn(6, 1, 20, 32)
    view = x[::2, :, 2:18, 5:25]
    torch.testing.assert_close(model(view), model(view.contiguous()))


@pytest.mark.parametrize("name", QUICK)
def test_training_step_lowers_the_loss(name: str) -> None:
    model, x, y = build(name, 2, (1, 16, 20)), torch.randn(8, 1, 16, 20), torch.arange(8) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
