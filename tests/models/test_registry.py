import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kws.errors import UsageError
from kws.models import MODELS, InShape, build, count_parameters, densenet, dpn, head, resnet, vgg, wrn
from tests.models.checks import assert_trains

# What scripts, configurations and the reports of others rely on.
REQUIRED = {
    *("matchboxnet_3x1x64", "matchboxnet_3x2x64", "matchboxnet_3x2x112", "matchboxnet_6x2x64"),
    *("tc_resnet8", "tc_resnet8_1.5", "tc_resnet14", "tc_resnet14_1.5"),
    *("resnet20", "resnet32", "resnet44", "resnet56"),
    *(f"resnet{depth}{stem}" for depth in (18, 34, 50, 101, 152) for stem in ("", "_small")),
    *("vgg19_bn", "vgg_a", "vgg_a_lrn", "vgg_b", "vgg_c", "vgg_d", "vgg_e"),
    *("wrn_28_10", "wrn_28_10_dropout", "wrn_52_10", "resnext29_8x64", "dpn92"),
    *("densenet_bc_100_12", "densenet_bc_190_40", "densenet_bc_250_24"),
    *("densenet_121", "densenet_169", "densenet_201", "densenet_264"),
    *(f"bcresnet_{tau}" for tau in ("1", "1.5", "2", "3", "6", "8")),
    *("ds_cnn_s", "ds_cnn_m", "ds_cnn_l", "kwt_1", "kwt_2", "kwt_3"),
    *(f"res{depth}{width}" for depth in (8, 15, 26) for width in ("", "_narrow")),
}
# Of families whose every name is large: a small network by the same builder.
SMALL: dict[str, Callable[[int, InShape], nn.Module]] = {
    "vgg": partial(vgg.build, configuration="A", batch_norm=True),
    "resnet": partial(resnet.build, blocks=(1, 1, 1, 1), cardinality=0),
    "resnext": partial(resnet.build, blocks=(1, 1, 1), cardinality=4, width=8, small_stem=True),
    "wrn": partial(wrn.build, depth=10, width=2),
    "dpn": partial(dpn.build, blocks=(1, 2), increments=(16, 32), inner=32),
    "densenet": partial(densenet.build, layers=(2, 2, 2), growth=8, small_stem=True),
}
FAMILIES = sorted({entry.family for entry in MODELS.values()})
SHAPE = (1, 32, 36)


def first_of(family: str) -> str:
    """The first name of the family."""
    return next(name for name, entry in MODELS.items() if entry.family == family)


def small(family: str, num_classes: int, in_shape: InShape = SHAPE) -> nn.Module:
    """One quick network of the family: that of SMALL, or else the first in the registry."""
    if family in SMALL:
        return SMALL[family](num_classes, in_shape)
    return build(first_of(family), num_classes, in_shape)


def at_least(name: str, bands: int, frames: int) -> InShape:
    """One plane of bands x frames, or of the smallest that the network takes where that is larger."""
    least_bands, least_frames = MODELS[name].smallest
    return 1, max(bands, least_bands), max(frames, least_frames)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_names_that_others_rely_on_are_there() -> None:
    assert MODELS.keys() >= REQUIRED
    assert all("arXiv" in e.paper for e in MODELS.values())


@pytest.mark.parametrize("name", MODELS)
def test_logits_for_the_default_shape(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        assert build(name, 11).eval()(torch.empty(2, 1, 40, 101)).shape == (2, 11)


@pytest.mark.parametrize(
    "name",
    # Large ones: 1 to 3 s each; the tests of their families have small ones of the same builders.
    [pytest.param(name, marks=pytest.mark.slow if entry.family in SMALL else ()) for name, entry in MODELS.items()],
)
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    shape = at_least(name, 10, 24)
    assert_trains(build(name, 5, shape), shape, 5, clips=3)


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_shape_works_and_one_less_is_refused(name: str) -> None:
    bands, frames = MODELS[name].smallest
    with torch.device("meta"), torch.no_grad():
        assert build(name, 4, (1, bands, frames)).eval()(torch.empty(1, 1, bands, frames)).shape == (1, 4)
    for bad in [(1, bands, frames - 1), (1, bands - 1, frames), (0, bands, frames)]:
        with pytest.raises(UsageError) as e:
            build(name, 4, bad)
        assert name in str(e.value)
        assert f"(1, {bands}, {frames})" in str(e.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_planes_are_taken_or_refused(family: str) -> None:
    name = first_of(family)
    shape = (3, *MODELS[name].smallest)
    if not MODELS[name].any_planes:
        with pytest.raises(UsageError, match="one plane,"):
            build(name, 4, shape)
        return
    assert build(name, 4, shape).eval()(torch.randn(1, *shape)).shape == (1, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_clip_is_recognised_as_in_a_batch(family: str) -> None:
    model, x = small(family, 3).eval(), torch.randn(4, *SHAPE)
    torch.testing.assert_close(model(x[:1]), model(x)[:1], rtol=1e-4, atol=1e-5)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_weights(family: str) -> None:
    torch.manual_seed(7)
    a = small(family, 3).state_dict()
    torch.manual_seed(7)
    b = small(family, 3).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_survive_a_file(family: str) -> None:
    file = io.BytesIO()
    model, x = small(family, 3).eval(), torch.randn(2, *SHAPE)
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = small(family, 3).eval()
    assert not torch.equal(copy(x), model(x))
    copy.load_state_dict(torch.load(file))
    assert torch.equal(copy(x), model(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_bfloat16_trains(family: str) -> None:
    model = small(family, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(torch.randn(4, *SHAPE)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_view_of_a_larger_batch_gives_the_same_logits(family: str) -> None:
    model, x = small(family, 3).eval(), torch.randn(6, 1, 36, 48)
    view = x[::2, :, 2:34, 5:41]
    torch.testing.assert_close(model(view), model(view.contiguous()))


@pytest.mark.parametrize("family", FAMILIES)
def test_training_lowers_the_loss(family: str) -> None:
    model, x, y = small(family, 2), torch.randn(8, *SHAPE), torch.arange(8) % 2
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses: list[float] = []
    while len(losses) < 60 and not (losses and losses[-1] < 0.5 * losses[0]):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", ["tc_resnet8", "bcresnet_1", "matchboxnet_3x1x64", "kwt_1", "ds_cnn_s", "res8"])
def test_the_head_is_what_gives_the_classes(name: str) -> None:
    network, found = build(name, 3), head(name, 3, (1, 40, 101))
    assert 1 <= len(found) <= 2
    logits = network.eval()(torch.randn(2, 1, 40, 101))
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key in found:
                value.zero_()
    assert not torch.equal(network(torch.randn(2, 1, 40, 101)), logits)
    assert (network(torch.randn(2, 1, 40, 101)) == 0).all(), "nothing else comes after it"
