"""The ResNeXts of kws/models/resnet.py."""

import pytest
import torch
from torch import nn

from kws.models import build, count_parameters, resnet
from tests.models.checks import assert_trains


@pytest.mark.parametrize(
    ("name", "classes", "shape", "exact"),
    [
        ("resnext29_8x64", 35, (1, 32, 32), 34_451_171),
        ("resnext29_8x64", 10, (3, 32, 32), 34_426_698),  # paper: 34.4 M
        ("resnext50_32x4d", 1000, (3, 224, 224), 25_028_904),  # paper: 25.0 M
        ("resnext101_32x4d", 1000, (3, 224, 224), 44_177_704),
    ],
)
def test_parameter_counts(name: str, classes: int, shape: tuple[int, int, int], exact: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build(name, classes, shape)) == exact


@pytest.mark.parametrize(
    ("name", "groups", "blocks", "inner", "out"),
    [
        ("resnext29_8x64", 8, [3, 3, 3], [512, 1024, 2048], [256, 512, 1024]),
        ("resnext50_32x4d", 32, [3, 4, 6, 3], [128, 256, 512, 1024], [256, 512, 1024, 2048]),
        ("resnext101_32x4d", 32, [3, 4, 23, 3], [128, 256, 512, 1024], [256, 512, 1024, 2048]),
    ],
)
def test_channels_of_the_paper(name: str, groups: int, blocks: list[int], inner: list[int], out: list[int]) -> None:
    with torch.device("meta"):
        model = build(name, 35, (1, 64, 64))
        x, channels = model.stem(torch.empty(1, 1, 64, 64)), []
        for stage in model.stages:
            x = stage(x)
            channels.append(x.shape[1])
    assert channels == out
    assert [len(stage) for stage in model.stages] == blocks
    for stage, width in zip(model.stages, inner, strict=True):
        grouped = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        assert [(m.groups, m.in_channels, m.out_channels) for m in grouped] == [(groups, width, width)] * len(stage)


def test_29_layers() -> None:
    with torch.device("meta"):
        model = build("resnext29_8x64", 35, (1, 32, 32))
    layers = [key for key, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in key]
    assert len(layers) == 29


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 9, 14)])
def test_trains(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = resnet.build(5, shape, blocks=(2, 1, 1), cardinality=4, width=8, small_stem=True)
    assert_trains(model, shape, 5, clips=4)
