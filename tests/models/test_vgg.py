import pytest
import torch
from torch import nn

from kws.models import vgg
from kws.models.cost import count_parameters
from kws.models.registry import build_model
from tests.models.checks import assert_trains

# Of the paper: 224 x 224, 3 channels, 1,000 classes. Table 2 rounds them to millions.
PAPER = {
    "vgg_a": (11, 132_863_336, 133),
    "vgg_a_lrn": (11, 132_863_336, 133),
    "vgg_b": (13, 133_047_848, 133),
    "vgg_c": (16, 133_638_952, 134),
    "vgg_d": (16, 138_357_544, 138),
    "vgg_e": (19, 143_667_240, 144),
}


@pytest.mark.parametrize("name", PAPER)
def test_layers_and_parameters_of_the_paper(name: str) -> None:
    layers, exact, millions = PAPER[name]
    with torch.device("meta"):
        model = build_model(name, 1000, (3, 224, 224))
    assert count_parameters(model) == exact
    assert round(exact / 1e6) == millions
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == layers


def test_vgg19_bn_parameters() -> None:
    with torch.device("meta"):
        model = build_model("vgg19_bn", 35, (1, 32, 32))
    assert count_parameters(model) == 39_060_195
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 16


@pytest.mark.parametrize(
    ("bands", "frames", "width"), [(32, 32, 512), (63, 63, 512), (40, 101, 3 * 512), (64, 64, 2048)]
)
def test_the_head_depends_on_the_size_of_the_features(bands: int, frames: int, width: int) -> None:
    with torch.device("meta"):
        model = build_model("vgg_a", 35, (1, bands, frames))
        assert model(torch.empty(2, 1, bands, frames)).shape == (2, 35)
    first = next(m for m in model.modules() if isinstance(m, nn.Linear))
    assert first.in_features == width


def test_in_configuration_c_every_third_convolution_of_the_last_stages_is_1x1() -> None:
    with torch.device("meta"):
        model = build_model("vgg_c", 35, (1, 32, 32))
    kernels = [m.kernel_size[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [3, 3, 3, 3] + 3 * [3, 3, 1]


def test_local_response_normalisation_is_krizhevskys() -> None:
    norm = next(
        m for m in vgg.build_vgg(5, (1, 32, 32), configuration="A", lrn=True).modules() if "LocalR" in type(m).__name__
    )
    x = torch.rand(1, 8, 1, 1)
    around = x[0, 1:6, 0, 0]  # channel 3 and two on each side
    torch.testing.assert_close(norm(x)[0, 3, 0, 0], x[0, 3, 0, 0] / (2 + 1e-4 * around.square().sum()) ** 0.75)
    several = 10 * torch.rand(2, 8, 3, 4)
    torch.testing.assert_close(norm.by_slices(several), norm(several))


@pytest.mark.parametrize("shape", [(1, 32, 32), pytest.param((2, 34, 65), marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_trains(shape: tuple[int, int, int], batch_norm: bool) -> None:
    torch.manual_seed(0)
    assert_trains(vgg.build_vgg(5, shape, configuration="A", batch_norm=batch_norm, lrn=not batch_norm), shape, 5)


def test_dropout_is_in_the_head_and_in_training_only() -> None:
    torch.manual_seed(0)
    model, x = build_model("vgg_a", 3, (1, 32, 32)), torch.randn(2, 1, 32, 32)
    assert [m.p for m in model.head if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
