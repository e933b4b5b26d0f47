import pytest
import torch
from torch import nn

from kws.models import densenet
from kws.models.cost import count_parameters
from kws.models.recompute import set_gradient_checkpointing
from kws.models.registry import build_model
from tests.models.checks import assert_trains, slow

# Table 2 of the paper: CIFAR-10, 3 input channels; in millions.
SMALL = {
    "densenet_bc_100_12": (777_305, 769_162, 0.8),
    "densenet_bc_250_24": (15_366_917, 15_324_406, 15.3),
    "densenet_bc_190_40": (25_677_765, 25_624_430, 25.6),
}
LARGE = {"densenet_121": 7_978_856, "densenet_169": 14_149_480, "densenet_201": 20_013_928, "densenet_264": 33_337_704}


@pytest.mark.parametrize("name", ["densenet_bc_100_12", *slow("densenet_bc_250_24", "densenet_bc_190_40")])
def test_parameter_counts_behind_the_small_stem(name: str) -> None:
    ours, paper, millions = SMALL[name]
    with torch.device("meta"):
        assert count_parameters(build_model(name, 35, (1, 32, 32))) == ours
        assert count_parameters(build_model(name, 10, (3, 32, 32))) == paper
    assert round(paper / 1e6, 1) == millions


@pytest.mark.parametrize("name", LARGE)
def test_parameter_counts_behind_the_large_stem(name: str) -> None:
    with torch.device("meta"):
        assert count_parameters(build_model(name, 1000, (3, 224, 224))) == LARGE[name]


@pytest.mark.parametrize("name", ["densenet_bc_100_12", "densenet_121", *slow(*list(SMALL)[1:], *list(LARGE)[1:])])
def test_depth_counts_the_layers_with_weights(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name)
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    named = int(name.removeprefix("densenet_").removeprefix("bc_").split("_")[0])
    assert layers == named + (name == "densenet_264")  # the paper's blocks 6, 12, 64, 48 make one more than its name


@pytest.mark.parametrize(
    ("name", "into", "out", "sides"),
    [
        ("densenet_121", [64, 128, 256, 512], [256, 512, 1024, 1024], [56, 28, 14, 7]),
        ("densenet_bc_100_12", [24, 108, 150], [216, 300, 342], [224, 112, 56]),
        *slow(
            ("densenet_169", [64, 128, 256, 640], [256, 512, 1280, 1664], [56, 28, 14, 7]),
            ("densenet_201", [64, 128, 256, 896], [256, 512, 1792, 1920], [56, 28, 14, 7]),
            ("densenet_264", [64, 128, 256, 1152], [256, 512, 2304, 2688], [56, 28, 14, 7]),
            ("densenet_bc_250_24", [48, 516, 750], [1032, 1500, 1734], [224, 112, 56]),
            ("densenet_bc_190_40", [80, 660, 950], [1320, 1900, 2190], [224, 112, 56]),
        ),
    ],
)
def test_channels_of_the_paper(name: str, into: list[int], out: list[int], sides: list[int]) -> None:
    seen = []
    with torch.device("meta"):
        model = build_model(name, 35, (1, 224, 224)).eval()
        for block in model.blocks:
            block.register_forward_hook(lambda _, inputs, outputs: seen.append((inputs[0], torch.cat(outputs, 1))))
        model(torch.empty(1, 1, 224, 224))
    assert [tuple(x.shape[1:]) for x, _ in seen] == [(c, s, s) for c, s in zip(into, sides, strict=True)]
    assert [tuple(y.shape[1:]) for _, y in seen] == [(c, s, s) for c, s in zip(out, sides, strict=True)]


def test_a_layer_gets_all_outputs_before_it() -> None:
    block = densenet.Block(6, layers=3, growth=4, dropout=0.0).eval()
    outputs = block(torch.rand(2, 6, 5, 5))
    for i, layer in enumerate(block.layers):
        torch.testing.assert_close(layer(outputs[: i + 1]), outputs[i + 1])
    assert [y.shape[1] for y in outputs] == [6, 4, 4, 4]


@pytest.mark.parametrize("shape", [(1, 32, 33), (3, 45, 32)])
@pytest.mark.parametrize("small_stem", [False, True])
@pytest.mark.parametrize("on", [False, True], ids=["kept", "recomputed"])
def test_trains(shape: tuple[int, int, int], small_stem: bool, on: bool) -> None:
    torch.manual_seed(0)
    model = densenet.build_densenet(5, shape, layers=(2, 3, 2), growth=4, small_stem=small_stem, dropout=0.2)
    assert set_gradient_checkpointing(model, on)
    assert_trains(model, shape, 5)
