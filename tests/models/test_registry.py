import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kws.errors import UsageError
from kws.models import densenet, dpn, mixednet, resnet, vgg, wrn
from kws.models.registry import MODELS, InShape, build_model, head_tensor_names
from tests.models.checks import assert_trains

# Names that scripts, configs and published results rely on.
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
    *("ds_tc_resnet", "ds_tc_resnet_causal", "mixednet", "tc_resnet8_causal", "bcresnet_1_causal"),
    *("matchboxnet_3x1x64_causal", "matchboxnet_3x2x64_causal", "ds_cnn_s_causal", "ds_cnn_s_valid"),
    *("ds_cnn_s", "ds_cnn_m", "ds_cnn_l", "kwt_1", "kwt_2", "kwt_3"),
    *(f"res{depth}{width}" for depth in (8, 15, 26) for width in ("", "_narrow")),
}
# A small network by the same builder, for families whose networks are all large or need more frames than SHAPE has.
SMALL: dict[str, Callable[[int, InShape], nn.Module]] = {
    "vgg": partial(vgg.build_vgg, configuration="A", batch_norm=True),
    "resnet": partial(resnet.build_resnet, blocks=(1, 1, 1, 1), cardinality=0),
    "resnext": partial(resnet.build_resnet, blocks=(1, 1, 1), cardinality=4, width=8, small_stem=True),
    "wrn": partial(wrn.build_wrn, depth=10, width=2),
    "dpn": partial(dpn.build_dpn, blocks=(1, 2), increments=(16, 32), inner=32),
    "mixednet": partial(mixednet.build_mixednet, kernels=((3,), (3, 5))),
    "densenet": partial(densenet.build_densenet, layers=(2, 2, 2), growth=8, small_stem=True),
}
FAMILIES = sorted({entry.family for entry in MODELS.values()})
SHAPE = (1, 32, 36)


def first_of(family: str) -> str:
    """The first name of the family."""
    return next(name for name, entry in MODELS.items() if entry.family == family)


def small(family: str, num_classes: int, in_shape: InShape = SHAPE) -> nn.Module:
    """One fast network of the family: the one in SMALL, or else the first in the registry."""
    if family in SMALL:
        return SMALL[family](num_classes, in_shape)
    return build_model(first_of(family), num_classes, in_shape)


def at_least(name: str, bands: int, frames: int) -> InShape:
    """Shape (1, bands, frames), or the smallest that the network accepts where that is larger."""
    least_bands, least_frames = MODELS[name].smallest
    return 1, max(bands, least_bands), max(frames, least_frames)


ONE_PER_FAMILY = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == first_of(e.family) else pytest.mark.slow) for name, e in MODELS.items()],
)
"""Every name in the full run; by default the first of each family."""
SLOW_FAMILIES = ("bcresnet", "densenet", "dpn", "resnet", "resnext", "vgg", "wrn")
"""The image networks are large even with few blocks, and BC-ResNet has many small operations."""
FAST_FAMILIES = [pytest.param(family, marks=pytest.mark.slow if family in SLOW_FAMILIES else ()) for family in FAMILIES]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_required_names_exist() -> None:
    assert MODELS.keys() >= REQUIRED
    assert all("arXiv" in e.paper for e in MODELS.values())


@pytest.mark.parametrize("name", list(map(first_of, FAMILIES)))
def test_logits_for_the_default_shape(name: str) -> None:
    """Those of all networks, and their gradients, are in tests/test_configs.py."""
    with torch.device("meta"), torch.no_grad():
        assert build_model(name, 11).eval()(torch.empty(2, 1, 40, 101)).shape == (2, 11)


# Large families are tested with small networks of the same builders in their own files.
@pytest.mark.parametrize("name", [first_of(family) for family in FAMILIES if family not in SMALL])
def test_every_parameter_gets_a_finite_gradient(name: str) -> None:
    shape = at_least(name, 10, 24)
    assert_trains(build_model(name, 5, shape), shape, 5, clips=3)


@ONE_PER_FAMILY
def test_the_smallest_shape_works_and_one_less_is_refused(name: str) -> None:
    bands, frames = MODELS[name].smallest
    with torch.device("meta"), torch.no_grad():
        assert build_model(name, 4, (1, bands, frames)).eval()(torch.empty(1, 1, bands, frames)).shape == (1, 4)
    for bad in [(1, bands, frames - 1), (1, bands - 1, frames), (0, bands, frames)]:
        with pytest.raises(UsageError) as e:
            build_model(name, 4, bad)
        assert name in str(e.value)
        assert f"{bands} bands" in str(e.value)
        assert f"{frames} frames" in str(e.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_input_channels_are_accepted_or_refused(family: str) -> None:
    name = first_of(family)
    shape = (3, *MODELS[name].smallest)
    if not MODELS[name].any_in_channels:
        with pytest.raises(UsageError, match="1 channel,"):
            build_model(name, 4, shape)
        return
    assert build_model(name, 4, shape).eval()(torch.randn(1, *shape)).shape == (1, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_gets_the_same_logits_alone_and_in_a_batch(family: str) -> None:
    model, x = small(family, 3).eval(), torch.randn(4, *SHAPE)
    torch.testing.assert_close(model(x[:1]), model(x)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("wrong", "near"), [("resnet-32", "resnet32"), ("matchboxnet-3x1x64", "matchboxnet_3x1x64")])
def test_an_unknown_name_is_refused_with_the_nearest_one(wrong: str, near: str) -> None:
    with pytest.raises(UsageError) as e:
        build_model(wrong)
    assert repr(wrong) in str(e.value)
    assert repr(near) in str(e.value)
    assert "kws models" in str(e.value)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UsageError, match="kws models"):
        build_model("")


def test_no_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="num_classes"):
        build_model("resnet20", 0)


def test_the_default_is_35_classes() -> None:
    assert build_model("tc_resnet8").eval()(torch.zeros(1, 1, 40, 101)).shape == (1, 35)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_weights(family: str) -> None:
    torch.manual_seed(7)
    a = small(family, 3).state_dict()
    torch.manual_seed(7)
    b = small(family, 3).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("family", FAST_FAMILIES)
def test_the_state_dict_holds_all_of_the_network(family: str) -> None:
    file = io.BytesIO()
    model, x = small(family, 3).eval(), torch.randn(2, *SHAPE)
    torch.save(model.state_dict(), file)
    file.seek(0)
    copy = small(family, 3).eval()
    assert not torch.equal(copy(x), model(x))
    copy.load_state_dict(torch.load(file))
    assert torch.equal(copy(x), model(x))


@pytest.mark.parametrize("family", FAST_FAMILIES)
def test_autocast_bfloat16_trains(family: str) -> None:
    model = small(family, 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(torch.randn(4, *SHAPE)), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_strided_view_gives_the_same_logits(family: str) -> None:
    model, x = small(family, 3).eval(), torch.randn(6, 1, 36, 48)
    view = x[::2, :, 2:34, 5:41]
    torch.testing.assert_close(model(view), model(view.contiguous()))


@pytest.mark.parametrize("family", FAST_FAMILIES)
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
def test_the_head_computes_the_logits(name: str) -> None:
    network, found = build_model(name, 3), head_tensor_names(name, 3, (1, 40, 101))
    assert 1 <= len(found) <= 2
    logits = network.eval()(torch.randn(2, 1, 40, 101))
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key in found:
                value.zero_()
    assert not torch.equal(network(torch.randn(2, 1, 40, 101)), logits)
    assert (network(torch.randn(2, 1, 40, 101)) == 0).all()
