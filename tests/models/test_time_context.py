"""How temporal layers get their past: receptive fields, causality, `valid` as a part of `causal`, chunks and states."""

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from kws.models.bcresnet import BCResNet
from kws.models.ds_cnn import DSCNN, SIZES
from kws.models.ds_tc_resnet import DSTCResNet
from kws.models.matchboxnet import MatchboxNet
from kws.models.mixednet import MixedNet
from kws.models.registry import MODELS, build_model
from kws.models.tc_resnet import TCResNet
from kws.models.time_context import TemporalLayer, TimeContext, TimeConv1d, TimeConv2d, TimeNetwork, receptive_field
from tests.models.checks import slow

BANDS = 10
# A small network of each family by its time padding, and its receptive field, counted by hand.
SMALL: dict[str, tuple[Callable[..., TimeNetwork], int]] = {
    "tc_resnet": (partial(TCResNet, BANDS, 3, 1, 0.5), 171),
    "matchboxnet": (partial(MatchboxNet, BANDS, 3, 1, 2, 8), 1 + 10 + 2 * (12 + 12 + 56)),
    "bcresnet": (partial(BCResNet, BANDS, 3, 8), 1 + 4 + 2 * (2 * 1 + 2 * 2 + 4 * 4 + 4 * 8) + 4),
    "ds_cnn": (partial(DSCNN, 3, SIZES["m"]), 1 + 9 + 2 * 2 + 4 * (2 + 2 + 2)),
    "ds_tc_resnet": (partial(DSTCResNet, BANDS, 3), 1 + 10 + 12 + 14 + 16 + 56),
    "mixednet": (partial(MixedNet, BANDS, 3), 1 + 5 + 2 * (4 + 8 + 12 + 14)),
}
FAMILIES = [*SMALL]
# With a stride and a projected shortcut; with two dimensions and a broadcast; with parallel kernels.
SOME_FAMILIES = ["tc_resnet", "bcresnet", "mixednet", *slow("matchboxnet", "ds_cnn", "ds_tc_resnet")]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def small(family: str, time_padding: str) -> TimeNetwork:
    """A network whose batch norms have other statistics than the initial ones."""
    torch.manual_seed(0)
    network = SMALL[family][0](time_padding=time_padding)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5
    with torch.no_grad():
        network(torch.randn(2, 1, BANDS, 250))
    return network.eval()


def frames_that_matter(network: TimeNetwork, frames: int, position: int) -> tuple[int, int]:
    """First and last input frame on which the embedding at `position` depends, from gradients."""
    x = torch.randn(1, 1, BANDS, frames, requires_grad=True)
    (network.embed(x)[..., position] * torch.randn(1)).sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    return int(seen.min()), int(seen.max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_receptive_field_is_that_of_the_gradients(family: str) -> None:
    network, field = small(family, "valid"), SMALL[family][1]
    assert network.receptive_field == field
    assert frames_that_matter(network, field, 0) == (0, field - 1)


@pytest.mark.parametrize("family", SOME_FAMILIES)
def test_causal_outputs_depend_on_frames_up_to_the_last_of_their_group(family: str) -> None:
    network, stride = small(family, "causal"), small(family, "causal").time_stride
    position = -(-network.receptive_field // stride)
    last = stride * (position + 1) - 1
    assert frames_that_matter(network, last + 20, position) == (last - network.receptive_field + 1, last)


@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize("more", [0, *slow(1, 2, 7)])
def test_valid_outputs_are_the_causal_ones_that_see_no_padding(family: str, more: int) -> None:
    causal, valid = small(family, "causal"), small(family, "valid")
    valid.load_state_dict(causal.state_dict())
    field, stride = causal.receptive_field, causal.time_stride
    frames = -(-field // stride) * stride + 5 * stride + more
    x = torch.randn(2, 1, BANDS, frames)
    all_positions, some = causal.embed(x), valid.embed(x[..., -(field - stride) % stride :])
    count = frames // stride - (field - 1) // stride
    assert all_positions.shape[2] == causal.positions(frames) == frames // stride
    assert some.shape[2] == valid.positions(frames - -(field - stride) % stride) == count
    torch.testing.assert_close(some, all_positions[..., all_positions.shape[2] - count :], **CLOSE)


@pytest.mark.parametrize("family", SOME_FAMILIES)
@pytest.mark.parametrize("time_padding", ["causal", *slow("valid")])
def test_chunks_give_the_embedding_of_the_whole(family: str, time_padding: str) -> None:
    network = small(family, time_padding)
    stride, states, found = network.time_stride, None, []
    x = torch.randn(2, 1, BANDS, stride * 60)
    for chunk in x.split([stride * count for count in (1, 2, 1, 13, 40, 3)], dim=3):
        embedding, states = network.stream(chunk, states)
        found.append(embedding)
    causal = small(family, "causal")
    causal.load_state_dict(network.state_dict())
    torch.testing.assert_close(torch.cat(found, dim=2), causal.embed(x), **CLOSE)
    assert len(states or ()) == len(network.contexts)


@pytest.mark.parametrize("name", ["tc_resnet8_causal", *slow("ds_cnn_s_valid", "matchboxnet_3x1x64_causal")])
def test_the_padding_changes_neither_weights_nor_their_names(name: str) -> None:
    plain, other = build_model(name.rpartition("_")[0]), build_model(name)
    assert {key: v.shape for key, v in plain.state_dict().items()} == {
        key: v.shape for key, v in other.state_dict().items()
    }


def test_same_padding_and_parts_of_a_stride_are_refused() -> None:
    for network, frames in ((small("tc_resnet", "same"), 8), (small("tc_resnet", "causal"), 12)):
        with pytest.raises(ValueError, match=f"{frames} frames.*stride 8"):
            network.stream(torch.zeros(1, 1, BANDS, frames))


def test_after_an_error_a_network_does_not_stay_in_streaming_mode() -> None:
    network = small("tc_resnet", "causal")
    x = torch.randn(1, 1, BANDS, 16)
    wanted = network(x)
    with pytest.raises(RuntimeError):
        network.stream(x[:, :, :3])
    torch.testing.assert_close(network(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (9, 2, 1), (3, 1, 4), (2, 2, 1)])
def test_one_layer(kernel: int, stride: int, dilation: int) -> None:
    """Output t sees the groups of frames up to its own; `valid` has those without padding."""
    torch.manual_seed(0)
    causal, valid = (
        TimeConv1d(2, 3, kernel, stride, 0, dilation, time_padding=padding) for padding in ("causal", "valid")
    )
    valid.load_state_dict(causal.state_dict())
    x, past = torch.randn(1, 2, 24), causal.context.past_frames
    y = causal(x)
    assert y.shape[2] == 24 // stride
    wanted = nn.functional.conv1d(nn.functional.pad(x, (past, 0)), causal.weight, None, stride, 0, dilation)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(valid(x[..., -past % stride :]), y[..., -(-past // stride) :])
    assert (causal.context.lost, valid.context.lost, valid.context.added) == (0, past, 0)


def test_the_bands_keep_their_padding() -> None:
    layer = TimeConv2d(1, 2, (3, 5), (2, 1), (1, 2), time_padding="causal")
    assert layer(torch.zeros(1, 1, 8, 10)).shape == (1, 2, 4, 10)
    assert TimeConv2d(1, 2, (3, 5), (2, 1), (1, 2), time_padding="same").padding == (1, 2)


def test_a_kernel_that_skips_frames_has_no_past_and_is_refused() -> None:
    with pytest.raises(ValueError, match="stride"):
        TimeContext("causal", TemporalLayer(1, 2))


def test_receptive_field_of_layers() -> None:
    assert receptive_field([]) == 1
    assert receptive_field([TemporalLayer(3), TemporalLayer(9, 2), TemporalLayer(3, dilation=4)]) == 1 + 2 + 8 + 16


@pytest.mark.parametrize(
    ("name", "field", "stride"),
    [
        ("tc_resnet8", 171, 8),
        ("tc_resnet14", 395, 8),
        ("matchboxnet_3x1x64", 207, 2),
        ("matchboxnet_3x2x64", 291, 2),
        ("bcresnet_1", 117, 1),
        ("ds_cnn_s_valid", 26, 2),
        ("ds_cnn_l", 46, 4),
        ("ds_tc_resnet_causal", 109, 1),
        ("mixednet", 82, 2),
    ],
)
def test_receptive_fields_of_the_registry(name: str, field: int, stride: int) -> None:
    network = cast(TimeNetwork, build_model(name))
    assert (network.receptive_field, network.time_stride) == (field, stride)


def test_valid_networks_of_the_registry_fit_in_a_second() -> None:
    names = [name for name, entry in MODELS.items() if entry.family in SMALL]
    networks = [cast(TimeNetwork, build_model(name, 3, (1, 40, 98))) for name in names]
    positions = [network.positions(98) for network in networks if network.time_padding == "valid"]
    assert len(positions) >= 2
    assert min(positions) >= 5


def test_a_copy_streams_by_itself() -> None:
    network = small("ds_tc_resnet", "causal")
    network.contexts  # noqa: B018 - caches them
    other = copy.deepcopy(network)
    assert all(a is not b for a, b in zip(network.contexts, other.contexts, strict=True))
    x: Tensor = torch.randn(1, 1, BANDS, 9)
    torch.testing.assert_close(other.stream(x)[0], network.embed(x), **CLOSE)
