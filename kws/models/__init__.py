"""The networks by name. Every one maps (B, 1, F, N) float features to (B, classes) logits.

`MODELS` is the whole registry, written out: a new family is one file and its lines here.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from kws.errors import UsageError
from kws.models import matchboxnet, resnet_cifar, tc_resnet

InShape = tuple[int, int, int]  # (1, F, N): one plane of F bands by N frames


@dataclass(frozen=True)
class Entry:
    """One network: `builder(num_classes, in_shape)` and the smallest (F, N) its strides leave something of."""

    family: str
    builder: Callable[[int, InShape], nn.Module]
    paper: str
    smallest: tuple[int, int]


def _matchboxnet(blocks: int, repeat: int, channels: int) -> Entry:
    builder = partial(matchboxnet.build, blocks=blocks, repeat=repeat, channels=channels)
    return Entry("matchboxnet", builder, matchboxnet.PAPER, matchboxnet.SMALLEST)


def _resnet(depth: int) -> Entry:
    builder = partial(resnet_cifar.build, depth=depth)
    return Entry("resnet_cifar", builder, resnet_cifar.PAPER, resnet_cifar.SMALLEST)


def _tc_resnet(per_stage: int, width: float = 1.0) -> Entry:
    builder = partial(tc_resnet.build, per_stage=per_stage, width=width)
    return Entry("tc_resnet", builder, tc_resnet.PAPER, tc_resnet.SMALLEST)


MODELS: dict[str, Entry] = {
    "matchboxnet_3x1x64": _matchboxnet(3, 1, 64),
    "matchboxnet_3x2x64": _matchboxnet(3, 2, 64),
    "matchboxnet_3x2x112": _matchboxnet(3, 2, 112),
    "matchboxnet_6x2x64": _matchboxnet(6, 2, 64),
    "resnet20": _resnet(20),
    "resnet32": _resnet(32),
    "resnet44": _resnet(44),
    "resnet56": _resnet(56),
    "tc_resnet8": _tc_resnet(1),
    "tc_resnet8_1.5": _tc_resnet(1, 1.5),
    "tc_resnet14": _tc_resnet(2),
    "tc_resnet14_1.5": _tc_resnet(2, 1.5),
}


def build(name: str, num_classes: int = 35, in_shape: InShape = (1, 40, 101)) -> nn.Module:
    """The network `name` for features of shape `in_shape` = (1, F, N), with fresh weights from torch's generator."""
    entry = _entry(name)
    if num_classes < 1:
        raise UsageError(f"model {name}: num_classes is {num_classes}, wanted at least 1")
    _check_shape(name, entry, in_shape)
    return entry.builder(num_classes, in_shape)


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters; batch norm's running statistics are not among them."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _entry(name: str) -> Entry:
    if name in MODELS:
        return MODELS[name]
    near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.0)[0]
    raise UsageError(f"no model is called {name!r}; the nearest is {near!r}. All names: kws models")


def _check_shape(name: str, entry: Entry, in_shape: InShape) -> None:
    planes, bands, frames = in_shape
    least_bands, least_frames = entry.smallest
    if planes != 1 or bands < least_bands or frames < least_frames:
        raise UsageError(
            f"model {name}: features have shape {tuple(in_shape)}; the smallest it takes is "
            f"(1, {least_bands}, {least_frames}): one plane, {least_bands} bands, {least_frames} frames"
        )


def rows(num_classes: int = 35, in_shape: InShape = (1, 40, 101)) -> list[dict[str, str | int]]:
    """One row a network: name, family, parameters (counted from the module) and paper."""
    return [
        {
            "name": name,
            "family": entry.family,
            "parameters": count_parameters(build(name, num_classes, in_shape)),
            "paper": entry.paper,
        }
        for name, entry in MODELS.items()
    ]
