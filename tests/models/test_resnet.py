import pytest
import torch
from torch import nn

from kws.models import build, count_parameters, resnet
from tests.models.checks import assert_trains

# At 1 plane and 35 classes, with the large and the small stem, and at the paper's 3 planes and 1,000 classes.
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
        assert count_parameters(build(f"resnet{depth}", 35, (1, 32, 32))) == large
        assert count_parameters(build(f"resnet{depth}_small", 35, (1, 32, 32))) == small
        assert count_parameters(build(f"resnet{depth}", 1000, (3, 224, 224))) == paper


@pytest.mark.parametrize("depth", COUNTS)
def test_depth_counts_the_layers_with_weights_but_shortcuts(depth: int) -> None:
    with torch.device("meta"):
        model = build(f"resnet{depth}")
    layers = [key for key, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in key]
    assert len(layers) == depth


def test_resnet18_is_made_of_basic_blocks() -> None:
    with torch.device("meta"):
        model = build("resnet18")
    assert {m.kernel_size for key, m in model.named_modules() if isinstance(m, nn.Conv2d) and "body" in key} == {(3, 3)}
    assert sum(isinstance(m, resnet.Residual) for m in model.modules()) == 8


@pytest.mark.parametrize(
    ("small_stem", "sides"),
    [(False, [(56, 56), (28, 28), (14, 14), (7, 7)]), (True, [(224, 224), (112, 112), (56, 56), (28, 28)])],
)
@pytest.mark.parametrize(("cardinality", "widths"), [(0, [64, 128, 256, 512]), (1, [256, 512, 1024, 2048])])
def test_stages_of_table_1(small_stem: bool, sides: list[tuple[int, int]], cardinality: int, widths: list[int]) -> None:
    with torch.device("meta"):
        model = resnet.build(5, (3, 224, 224), blocks=(2, 1, 1, 1), cardinality=cardinality, small_stem=small_stem)
        x, found = model.stem(torch.empty(1, 3, 224, 224)), []
        for stage in model.stages:
            x = stage(x)
            found.append(x.shape)
    assert found == [(1, width, *side) for width, side in zip(widths, sides, strict=True)]


def test_shortcuts_are_projected_only_where_the_shape_changes() -> None:
    with torch.device("meta"):
        basic, deep = build("resnet18"), build("resnet50")
    for model, expected in ((basic, [0, 1, 1, 1]), (deep, [1, 1, 1, 1])):
        projected = [[not isinstance(block.shortcut, nn.Identity) for block in stage] for stage in model.stages]
        assert [sum(stage) for stage in projected] == expected
        assert not any(any(stage[1:]) for stage in projected)


@pytest.mark.parametrize("shape", [(1, 32, 32), (2, 40, 51)])
@pytest.mark.parametrize("cardinality", [0, 1])
@pytest.mark.parametrize("small_stem", [False, True])
def test_trains(shape: tuple[int, int, int], cardinality: int, small_stem: bool) -> None:
    torch.manual_seed(0)
    model = resnet.build(5, shape, blocks=(1, 2, 1, 1), cardinality=cardinality, small_stem=small_stem)
    assert_trains(model, shape, 5, clips=4)
