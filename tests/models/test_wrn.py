import pytest
import torch
from torch import nn

from kws.errors import UsageError
from kws.models import wrn
from kws.models.cost import count_parameters
from kws.models.registry import build_model
from tests.models.checks import assert_trains

# Table 2: CIFAR-10, k = 2.
BLOCK_TYPES = {
    "wrn_40_2_b131": ((1, 3, 1), 6, 1.4),
    "wrn_40_2_b31": ((3, 1), 6, 1.2),
    "wrn_40_2_b13": ((1, 3), 6, 1.3),
    "wrn_40_2_b311": ((3, 1, 1), 6, 1.3),
    "wrn_28_2_b33": ((3, 3), 4, 1.5),
    "wrn_22_2_b313": ((3, 1, 3), 3, 1.1),
}


@pytest.mark.parametrize(
    ("name", "exact"), [("wrn_28_10", 36_494_931), ("wrn_28_10_dropout", 36_494_931), ("wrn_52_10", 75_220_051)]
)
def test_parameter_counts(name: str, exact: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build_model(name, 35, (1, 32, 32))) == exact


def test_wrn_28_10_of_the_paper() -> None:
    with torch.device("meta"):
        assert count_parameters(build_model("wrn_28_10", 10, (3, 32, 32))) == 36_479_194  # table 4: 36.5 M


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_block_types_of_table_2(name: str) -> None:
    kernels, blocks, millions = BLOCK_TYPES[name]
    with torch.device("meta"):
        model = build_model(name, 10, (3, 32, 32))
    assert round(count_parameters(model) / 1e6, 1) == millions
    for stage in model.stages:
        assert len(stage) == blocks
        assert all(tuple(conv.kernel_size[0] for conv in block.convs) == kernels for block in stage)


@pytest.mark.parametrize(("name", "depth"), [("wrn_28_10", 28), ("wrn_52_10", 52)])
def test_depth_counts_the_convolutions_including_those_of_shortcuts(name: str, depth: int) -> None:
    with torch.device("meta"):
        model = build_model(name)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == depth


@pytest.mark.parametrize("kernels", [(3, 3), (1, 3, 1), (3, 1, 3)])
def test_stages_halve_and_widen(kernels: tuple[int, ...]) -> None:
    model, x = wrn.build_wrn(5, (1, 12, 10), depth=10, width=2, kernels=kernels).eval(), torch.randn(1, 16, 12, 10)
    found = []
    for stage in model.stages:
        x = stage(x)
        found.append(tuple(x.shape[1:]))
    assert found == [(32, 12, 10), (64, 6, 5), (128, 3, 3)]


def test_a_block_is_pre_activated() -> None:
    """The shortcut is the input itself, or, where the width changes, a projection of its activation."""
    x = torch.randn(2, 4, 5, 5)
    same, wider = wrn.Block(4, 4, 1, (3, 3), 0.0).eval(), wrn.Block(4, 6, 2, (3, 3), 0.0).eval()
    for block in (same, wider):
        nn.init.zeros_(block.convs[-1].weight)
    assert torch.equal(same(x), x)
    torch.testing.assert_close(wider(x), wider.shortcut(torch.relu(wider.norms[0](x))))


def test_dropout_is_between_the_convolutions_after_the_relu() -> None:
    block, seen = wrn.Block(4, 4, 1, (3, 3), 0.3), {}
    block.dropout.register_forward_hook(lambda _, inputs, output: seen.update(into=inputs[0], out=output))
    block.convs[1].register_forward_hook(lambda _, inputs, output: seen.update(conv=inputs[0]))
    block(torch.randn(2, 4, 5, 5))
    assert seen["into"].min() == 0
    assert seen["conv"] is seen["out"]
    with torch.device("meta"):
        models = [build_model(name) for name in ("wrn_28_10", "wrn_28_10_dropout")]
    assert [{m.p for m in model.modules() if isinstance(m, nn.Dropout)} for model in models] == [{0.0}, {0.3}]


@pytest.mark.parametrize("depth", [4, 27, 30])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(UsageError, match="6n \\+ 4"):
        wrn.build_wrn(10, (1, 32, 32), depth=depth, width=1)


@pytest.mark.parametrize("shape", [(1, 12, 16), (3, 7, 13)])
@pytest.mark.parametrize("kernels", [(3, 3), (1, 3, 1)])
def test_trains(shape: tuple[int, int, int], kernels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert_trains(wrn.build_wrn(5, shape, depth=16, width=2, kernels=kernels, dropout=0.3), shape, 5)
