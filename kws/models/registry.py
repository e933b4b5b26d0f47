"""All networks by name, and how to build one.

A network maps float features (B, 1, F, N) to logits (B, classes): F bands by N frames. Those with
`Entry.any_in_channels` take (B, in_channels, F, N).

`MODELS` lists every network. To add a family: models/NAME.py, an import and its entries here, a configs/NAME.toml
for each name, and the module in setup.cfg (contract "families").
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from kws.errors import UsageError, close_names
from kws.models import (
    bcresnet,
    densenet,
    dpn,
    ds_cnn,
    ds_tc_resnet,
    kwt,
    layers,
    matchboxnet,
    mixednet,
    res_kws,
    resnet,
    resnet_cifar,
    tc_resnet,
    vgg,
    wrn,
)
from kws.models.time_context import TimePadding

InShape = tuple[int, int, int]
"""Shape of one clip's features: (in_channels, F, N), mostly (1, F, N)."""


@dataclass(frozen=True)
class Entry:
    """One network of the registry."""

    family: str
    builder: Callable[[int, InShape], nn.Module]
    """builder(num_classes, in_shape) returns the network with new weights."""
    paper: str
    smallest: tuple[int, int]
    """Smallest (F, N) that its strides reduce to at least one position."""
    any_in_channels: bool = False
    """Whether it takes any number of input channels, or only one."""


def _matchboxnet(blocks: int, repeat: int, channels: int, time_padding: TimePadding = "same") -> Entry:
    builder = partial(
        matchboxnet.build_matchboxnet, blocks=blocks, repeat=repeat, channels=channels, time_padding=time_padding
    )
    return Entry("matchboxnet", builder, matchboxnet.PAPER, matchboxnet.SMALLEST)


def _cifar_resnet(depth: int) -> Entry:
    builder = partial(resnet_cifar.build_cifar_resnet, depth=depth)
    return Entry("resnet_cifar", builder, resnet_cifar.PAPER, resnet_cifar.SMALLEST)


def _tc_resnet(per_stage: int, width: float = 1.0, time_padding: TimePadding = "same") -> Entry:
    builder = partial(tc_resnet.build_tc_resnet, per_stage=per_stage, width=width, time_padding=time_padding)
    return Entry("tc_resnet", builder, tc_resnet.PAPER, tc_resnet.SMALLEST)


def _vgg(configuration: str, batch_norm: bool = False, lrn: bool = False) -> Entry:
    builder = partial(vgg.build_vgg, configuration=configuration, batch_norm=batch_norm, lrn=lrn)
    return Entry("vgg", builder, vgg.PAPER, vgg.SMALLEST, any_in_channels=True)


def _imagenet_resnet(*blocks: int, cardinality: int = 1, small_stem: bool = False) -> Entry:
    builder = partial(resnet.build_resnet, blocks=blocks, cardinality=cardinality, small_stem=small_stem)
    return Entry("resnet", builder, resnet.PAPER, layers.smallest(len(blocks), small_stem), any_in_channels=True)


def _resnext(*blocks: int, cardinality: int, width: int, small_stem: bool = False) -> Entry:
    builder = partial(resnet.build_resnet, blocks=blocks, cardinality=cardinality, width=width, small_stem=small_stem)
    return Entry(
        "resnext", builder, resnet.PAPER_RESNEXT, layers.smallest(len(blocks), small_stem), any_in_channels=True
    )


def _wrn(depth: int, width: int, kernels: tuple[int, ...] = (3, 3), dropout: float = 0.0) -> Entry:
    builder = partial(wrn.build_wrn, depth=depth, width=width, kernels=kernels, dropout=dropout)
    return Entry("wrn", builder, wrn.PAPER, wrn.SMALLEST, any_in_channels=True)


def _dpn(blocks: tuple[int, ...], increments: tuple[int, ...], inner: int) -> Entry:
    builder = partial(dpn.build_dpn, blocks=blocks, increments=increments, inner=inner)
    return Entry("dpn", builder, dpn.PAPER, layers.smallest(len(blocks), small=True), any_in_channels=True)


def _densenet(blocks: tuple[int, ...], growth: int, small_stem: bool = False) -> Entry:
    builder = partial(densenet.build_densenet, layers=blocks, growth=growth, small_stem=small_stem)
    return Entry("densenet", builder, densenet.PAPER, layers.smallest(len(blocks), small_stem), any_in_channels=True)


def _densenet_bc(depth: int, growth: int) -> Entry:
    return _densenet(((depth - 4) // 6,) * 3, growth, small_stem=True)


def _bcresnet(tau: float, time_padding: TimePadding = "same") -> Entry:
    builder = partial(bcresnet.build_bcresnet, tau=tau, time_padding=time_padding)
    return Entry("bcresnet", builder, bcresnet.PAPER, bcresnet.SMALLEST)


def _ds_cnn(size: str, time_padding: TimePadding = "same") -> Entry:
    builder = partial(ds_cnn.build_ds_cnn, size=size, time_padding=time_padding)
    return Entry("ds_cnn", builder, ds_cnn.PAPER, ds_cnn.SIZES[size].smallest(time_padding))


def _ds_tc_resnet(time_padding: TimePadding) -> Entry:
    builder = partial(ds_tc_resnet.build_ds_tc_resnet, time_padding=time_padding)
    return Entry("ds_tc_resnet", builder, ds_tc_resnet.PAPER, ds_tc_resnet.SMALLEST)


def _res_kws(depth: int, channels: int = res_kws.WIDE) -> Entry:
    builder = partial(res_kws.build_res_kws, depth=depth, channels=channels)
    return Entry("res_kws", builder, res_kws.PAPER, res_kws.PATCH[depth])


def _kwt(heads: int) -> Entry:
    return Entry("kwt", partial(kwt.build_kwt, heads=heads), kwt.PAPER, kwt.SMALLEST)


MODELS: dict[str, Entry] = {
    "matchboxnet_3x1x64": _matchboxnet(3, 1, 64),
    "matchboxnet_3x2x64": _matchboxnet(3, 2, 64),
    "matchboxnet_3x2x112": _matchboxnet(3, 2, 112),
    "matchboxnet_6x2x64": _matchboxnet(6, 2, 64),
    "matchboxnet_3x1x64_causal": _matchboxnet(3, 1, 64, "causal"),
    "matchboxnet_3x2x64_causal": _matchboxnet(3, 2, 64, "causal"),
    "ds_tc_resnet": _ds_tc_resnet("same"),
    "ds_tc_resnet_causal": _ds_tc_resnet("causal"),
    "mixednet": Entry("mixednet", mixednet.build_mixednet, mixednet.PAPER, mixednet.SMALLEST),
    "resnet20": _cifar_resnet(20),
    "resnet32": _cifar_resnet(32),
    "resnet44": _cifar_resnet(44),
    "resnet56": _cifar_resnet(56),
    "tc_resnet8": _tc_resnet(1),
    "tc_resnet8_1.5": _tc_resnet(1, 1.5),
    "tc_resnet14": _tc_resnet(2),
    "tc_resnet14_1.5": _tc_resnet(2, 1.5),
    "tc_resnet8_causal": _tc_resnet(1, time_padding="causal"),
    "bcresnet_1": _bcresnet(1),
    "bcresnet_1.5": _bcresnet(1.5),
    "bcresnet_2": _bcresnet(2),
    "bcresnet_3": _bcresnet(3),
    "bcresnet_6": _bcresnet(6),
    "bcresnet_8": _bcresnet(8),
    "bcresnet_1_causal": _bcresnet(1, "causal"),
    "ds_cnn_s": _ds_cnn("s"),
    "ds_cnn_m": _ds_cnn("m"),
    "ds_cnn_l": _ds_cnn("l"),
    "ds_cnn_s_causal": _ds_cnn("s", "causal"),
    "ds_cnn_s_valid": _ds_cnn("s", "valid"),
    "res8": _res_kws(8),
    "res8_narrow": _res_kws(8, res_kws.NARROW),
    "res15": _res_kws(15),
    "res15_narrow": _res_kws(15, res_kws.NARROW),
    "res26": _res_kws(26),
    "res26_narrow": _res_kws(26, res_kws.NARROW),
    "kwt_1": _kwt(1),
    "kwt_2": _kwt(2),
    "kwt_3": _kwt(3),
    "vgg_a": _vgg("A"),
    "vgg_a_lrn": _vgg("A", lrn=True),
    "vgg_b": _vgg("B"),
    "vgg_c": _vgg("C"),
    "vgg_d": _vgg("D"),
    "vgg_e": _vgg("E"),
    "vgg19_bn": _vgg("E", batch_norm=True),
    "resnet18": _imagenet_resnet(2, 2, 2, 2, cardinality=0),
    "resnet34": _imagenet_resnet(3, 4, 6, 3, cardinality=0),
    "resnet50": _imagenet_resnet(3, 4, 6, 3),
    "resnet101": _imagenet_resnet(3, 4, 23, 3),
    "resnet152": _imagenet_resnet(3, 8, 36, 3),
    "resnet18_small": _imagenet_resnet(2, 2, 2, 2, cardinality=0, small_stem=True),
    "resnet34_small": _imagenet_resnet(3, 4, 6, 3, cardinality=0, small_stem=True),
    "resnet50_small": _imagenet_resnet(3, 4, 6, 3, small_stem=True),
    "resnet101_small": _imagenet_resnet(3, 4, 23, 3, small_stem=True),
    "resnet152_small": _imagenet_resnet(3, 8, 36, 3, small_stem=True),
    "resnext29_8x64": _resnext(3, 3, 3, cardinality=8, width=64, small_stem=True),
    "resnext50_32x4d": _resnext(3, 4, 6, 3, cardinality=32, width=4),
    "resnext101_32x4d": _resnext(3, 4, 23, 3, cardinality=32, width=4),
    "wrn_28_10": _wrn(28, 10),
    "wrn_28_10_dropout": _wrn(28, 10, dropout=0.3),
    "wrn_52_10": _wrn(52, 10),
    "wrn_40_2_b131": _wrn(40, 2, (1, 3, 1)),
    "wrn_40_2_b31": _wrn(40, 2, (3, 1)),
    "wrn_40_2_b13": _wrn(40, 2, (1, 3)),
    "wrn_40_2_b311": _wrn(40, 2, (3, 1, 1)),
    "wrn_28_2_b33": _wrn(28, 2, (3, 3)),
    "wrn_22_2_b313": _wrn(22, 2, (3, 1, 3)),
    "dpn92": _dpn((3, 4, 20, 3), (16, 32, 24, 128), inner=96),
    "densenet_bc_100_12": _densenet_bc(100, 12),
    "densenet_bc_190_40": _densenet_bc(190, 40),
    "densenet_bc_250_24": _densenet_bc(250, 24),
    "densenet_121": _densenet((6, 12, 24, 16), 32),
    "densenet_169": _densenet((6, 12, 32, 32), 32),
    "densenet_201": _densenet((6, 12, 48, 32), 32),
    "densenet_264": _densenet((6, 12, 64, 48), 32),
}


def build_model(name: str, num_classes: int = 35, in_shape: InShape = (1, 40, 101)) -> nn.Module:
    """The network `name` with new weights, drawn from torch's global generator.

    Raises UsageError for an unknown name, and for fewer classes or smaller features than the network takes.
    """
    entry = _entry(name)
    if num_classes < 1:
        raise UsageError(f"model {name}: num_classes is {num_classes}, wanted at least 1")
    _check_shape(name, entry, in_shape)
    return entry.builder(num_classes, in_shape)


def head_tensor_names(name: str, num_classes: int, in_shape: InShape) -> set[str]:
    """Names of the network's tensors whose shape depends on the number of classes."""
    with torch.device("meta"):  # shapes only
        one, more = (build_model(name, count, in_shape).state_dict() for count in (num_classes, num_classes + 1))
    return {key for key, value in one.items() if more[key].shape != value.shape}


def _entry(name: str) -> Entry:
    if name in MODELS:
        return MODELS[name]
    near = " or ".join(map(repr, close_names(name, MODELS)))
    hint = f"did you mean {near}? " if near else ""
    raise UsageError(f"no model is called {name!r}; {hint}kws models lists all names")


def _check_shape(name: str, entry: Entry, in_shape: InShape) -> None:
    channels, bands, frames = in_shape
    least_bands, least_frames = entry.smallest
    too_many = channels > 1 and not entry.any_in_channels
    if channels < 1 or too_many or bands < least_bands or frames < least_frames:
        count = "1 channel or more" if entry.any_in_channels else "1 channel"
        raise UsageError(
            f"model {name}: features have shape {tuple(in_shape)} (channels, bands, frames); wanted {count}, at least "
            f"{least_bands} bands and {least_frames} frames"
        )
