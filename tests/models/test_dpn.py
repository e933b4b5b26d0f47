import pytest
import torch
from torch import nn

from kws.models import dpn
from kws.models.cost import count_parameters
from kws.models.registry import build_model
from tests.models.checks import assert_trains, output_channels


def test_parameter_counts() -> None:
    with torch.device("meta"):
        assert count_parameters(build_model("dpn92", 35, (1, 32, 32))) == 34_299_507
        assert count_parameters(build_model("dpn92", 10, (3, 32, 32))) == 34_236_634


def test_channels_of_table_1() -> None:
    inner, residual, increment = (96, 192, 384, 768), (256, 512, 1024, 2048), (16, 32, 24, 128)
    with torch.device("meta"):
        model, x = build_model("dpn92", 35, (1, 32, 32)), torch.empty(1, 64, 32, 32)
        for i, blocks in enumerate((3, 4, 20, 3)):
            stage = model.stages[i]
            expected = [residual[i] + (j + 2) * increment[i] for j in range(blocks)]
            assert output_channels(stage, x) == expected
            grouped = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
            assert [(m.groups, m.in_channels, m.out_channels) for m in grouped] == [(32, inner[i], inner[i])] * blocks
            x = stage(x)
            assert x.shape[2:] == (32 // 2**i, 32 // 2**i)
    assert model.linear.in_features == 2560


def test_some_channels_are_added_and_the_others_appended() -> None:
    block = dpn.Block(12, 8, residual=8, increment=2, stride=1, groups=4, projected=False).eval()
    x = torch.rand(2, 12, 5, 5)
    r, d = torch.split(block.body(x), [8, 2], dim=1)
    torch.testing.assert_close(block(x), torch.relu(torch.cat([x[:, :8] + r, x[:, 8:], d], dim=1)))


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 9, 21)])
def test_trains(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    assert_trains(dpn.build_dpn(5, shape, blocks=(2, 3), increments=(16, 32), inner=32), shape, 5)
