import pytest
import torch

from kws.models.cost import count_parameters
from kws.models.registry import build_model
from kws.models.tc_resnet import TCResNet


@pytest.mark.parametrize(
    ("name", "trainable", "paper"),
    [
        ("tc_resnet8", 65_168, 66),
        ("tc_resnet8_1.5", 144_264, 145),
        ("tc_resnet14", 135_856, 137),
        ("tc_resnet14_1.5", 303_000, 305),
    ],
)
def test_parameter_counts_of_the_paper(name: str, trainable: int, paper: int) -> None:
    """Table 1 has 40 bands and 12 classes, and counts batch norm's running mean and variance."""
    model = build_model(name, 12, (1, 40, 101))
    assert count_parameters(model) == trainable
    statistics = sum(b.numel() for key, b in model.named_buffers() if "running" in key)
    assert round((trainable + statistics) / 1000) == paper


def test_three_stages_halve_the_frames() -> None:
    model = TCResNet(8, 3, per_stage=2).eval()
    assert model.blocks(torch.randn(1, 16, 1, 101)).shape == (1, 48, 1, 13)


def test_dropout_changes_training_only() -> None:
    torch.manual_seed(0)
    model, x = TCResNet(8, 3, per_stage=1), torch.randn(4, 1, 8, 30)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
