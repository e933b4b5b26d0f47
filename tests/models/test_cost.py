import pytest
import torch
from torch import nn

from kws.models.cost import count_parameters, multiply_adds
from kws.models.registry import build_model


def test_frozen_parameters_and_buffers_are_not_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert count_parameters(model) == 8 + 4
    model[0].weight.requires_grad_(False)
    assert count_parameters(model) == 2 + 4


def test_multiply_adds_of_plain_layers() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, (1, 5), stride=2, groups=3), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 4 * 2, 10),
    )  # fmt: skip
    first, second, last = 6 * 8 * 8 * 9, 6 * 4 * 2 * (2 * 5), 6 * 4 * 2 * 10
    assert multiply_adds(model, (1, 8, 8)) == first + second + last


@pytest.mark.parametrize(
    ("name", "shape", "published"),
    [  # from papers, for networks without attention
        ("resnet20", (1, 32, 32), 40.6e6),  # 40.8 M with three input channels
        ("vgg_d", (3, 224, 224), 15.5e9),
        ("resnet50", (3, 224, 224), 4.1e9),
        ("resnext50_32x4d", (3, 224, 224), 4.2e9),
        ("densenet_121", (3, 224, 224), 2.87e9),
        ("wrn_28_10", (3, 32, 32), 5.2e9),
        ("tc_resnet8", (1, 40, 98), 1.5e6),
    ],
)
def test_multiply_adds_of_the_papers(name: str, shape: tuple[int, int, int], published: float) -> None:
    with torch.device("meta"):
        assert multiply_adds(build_model(name, 1000 if shape[1] == 224 else 12, shape), shape) == pytest.approx(
            published, rel=0.04
        )


def test_multiply_adds_of_attention() -> None:
    one, dim, tokens = build_model("kwt_1", 35, (1, 40, 98)), 64, 99
    linear = sum(m.weight.numel() for m in one.modules() if isinstance(m, nn.Linear))
    embed, head = 40 * dim, dim * 35
    layers = (linear - embed - head) * tokens + 12 * 2 * tokens * tokens * dim
    assert multiply_adds(one, (1, 40, 98)) == 98 * embed + head + layers


def test_the_model_is_not_changed() -> None:
    model = build_model("tc_resnet8", 5, (1, 40, 50))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    multiply_adds(model, (1, 40, 50))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_count_is_the_same_on_the_meta_device() -> None:
    with torch.device("meta"):
        on_shapes = multiply_adds(build_model("bcresnet_1", 12, (1, 40, 101)), (1, 40, 101))
    assert multiply_adds(build_model("bcresnet_1", 12, (1, 40, 101)), (1, 40, 101)) == on_shapes
