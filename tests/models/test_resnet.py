import pytest
import torch
from torch import nn

from kws.models import resnet
from kws.models.cost import count_parameters
from kws.models.registry import build_model
from tests.models.checks import assert_trains

# With 1 channel and 35 classes (large stem, small stem), and with the 3 channels and 1,000 classes of the paper.
COUNTS = {
    18: (11_188_195, 11_185_635, 11_689_512),
    34: (21_296_355, 21_293_795, 21_797_672),
    50: (23_573_475, 23_570_915, 25_557_032),
    101: (42_565_603, 42_563_043, 44_549_160),
    152: (58_209_251, 58_206_691, 60_192_808),
}


@pytest.mark.parametrize("depth", COUNTS)
def test_parameter_counts(depth: int) -> None:
    large, small, paper = COUNTS[depth]
    with torch.device("meta"):
        assert count_parameters(build_model(f"resnet{depth}", 35, (1, 32, 32))) == large
        assert count_parameters(build_model(f"resnet{depth}_small", 35, (1, 32, 32))) == small
        assert count_parameters(build_model(f"resnet{depth}", 1000, (3, 224, 224))) == paper


@pytest.mark.parametrize("depth", COUNTS)
def test_depth_counts_the_layers_with_weights_without_shortcuts(depth: int) -> None:
    with torch.device("meta"):
        model = build_model(f"resnet{depth}")
    layers = [key for key, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in key]
    assert len(layers) == depth


def test_resnet18_has_basic_blocks() -> None:
    with torch.device("meta"):
        model = build_model("resnet18")
    assert {m.kernel_size for key, m in model.named_modules() if isinstance(m, nn.Conv2d) and "body" in key} == {(3, 3)}
    assert sum(isinstance(m, resnet.Residual) for m in model.modules()) == 8


@pytest.mark.parametrize(
    ("small_stem", "sides"),
    [(False, [(56, 56), (28, 28), (14, 14), (7, 7)]), (True, [(224, 224), (112, 112), (56, 56), (28, 28)])],
)
@pytest.mark.parametrize(("cardinality", "widths"), [(0, [64, 128, 256, 512]), (1, [256, 512, 1024, 2048])])
def test_stages_of_table_1(small_stem: bool, sides: list[tuple[int, int]], cardinality: int, widths: list[int]) -> None:
    with torch.device("meta"):
        model = resnet.build_resnet(
            5, (3, 224, 224), blocks=(2, 1, 1, 1), cardinality=cardinality, small_stem=small_stem
        )
        x, found = model.stem(torch.empty(1, 3, 224, 224)), []
        for stage in model.stages:
            x = stage(x)
            found.append(x.shape)
    assert found == [(1, width, *side) for width, side in zip(widths, sides, strict=True)]


def test_shortcuts_are_projected_only_where_the_shape_changes() -> None:
    with torch.device("meta"):
        basic, deep = build_model("resnet18"), build_model("resnet50")
    for model, expected in ((basic, [0, 1, 1, 1]), (deep, [1, 1, 1, 1])):
        projected = [[not isinstance(block.shortcut, nn.Identity) for block in stage] for stage in model.stages]
        assert [sum(stage) for stage in projected] == expected
        assert not any(any(stage[1:]) for stage in projected)


@pytest.mark.parametrize("shape", [(1, 32, 32), pytest.param((2, 40, 51), marks=pytest.mark.slow)])
@pytest.mark.parametrize("cardinality", [0, 1])
@pytest.mark.parametrize("small_stem", [False, True])
def test_trains(shape: tuple[int, int, int], cardinality: int, small_stem: bool) -> None:
    torch.manual_seed(0)
    model = resnet.build_resnet(5, shape, blocks=(1, 2, 1, 1), cardinality=cardinality, small_stem=small_stem)
    assert_trains(model, shape, 5, clips=4)


# --- ResNeXt --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "shape", "exact"),
    [
        ("resnext29_8x64", 35, (1, 32, 32), 34_451_171),
        ("resnext29_8x64", 10, (3, 32, 32), 34_426_698),  # paper: 34.4 M
        ("resnext50_32x4d", 1000, (3, 224, 224), 25_028_904),  # paper: 25.0 M
        ("resnext101_32x4d", 1000, (3, 224, 224), 44_177_704),
    ],
)
def test_parameter_counts_of_resnext(name: str, classes: int, shape: tuple[int, int, int], exact: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_model(name, classes, shape)) == exact


@pytest.mark.parametrize(
    ("name", "groups", "blocks", "inner", "out"),
    [
        ("resnext29_8x64", 8, [3, 3, 3], [512, 1024, 2048], [256, 512, 1024]),
        ("resnext50_32x4d", 32, [3, 4, 6, 3], [128, 256, 512, 1024], [256, 512, 1024, 2048]),
        ("resnext101_32x4d", 32, [3, 4, 23, 3], [128, 256, 512, 1024], [256, 512, 1024, 2048]),
    ],
)
def test_channels_of_resnext(name: str, groups: int, blocks: list[int], inner: list[int], out: list[int]) -> None:
    with torch.device("meta"):
        model = build_model(name, 35, (1, 64, 64))
        x, channels = model.stem(torch.empty(1, 1, 64, 64)), []
        for stage in model.stages:
            x = stage(x)
            channels.append(x.shape[1])
    assert channels == out
    assert [len(stage) for stage in model.stages] == blocks
    for stage, width in zip(model.stages, inner, strict=True):
        grouped = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
        assert [(m.groups, m.in_channels, m.out_channels) for m in grouped] == [(groups, width, width)] * len(stage)


def test_resnext29_has_29_layers() -> None:
    with torch.device("meta"):
        model = build_model("resnext29_8x64", 35, (1, 32, 32))
    layers = [key for key, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in key]
    assert len(layers) == 29


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 9, 14)])
def test_resnext_trains(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = resnet.build_resnet(5, shape, blocks=(2, 1, 1), cardinality=4, width=8, small_stem=True)
    assert_trains(model, shape, 5, clips=4)
