import pytest
import torch

from kws.config import TrainConfig
from kws.training.precision_notes import precision_notes

CPU = torch.device("cpu")


def test_nothing_is_said_about_float32_on_a_cpu() -> None:
    assert precision_notes(TrainConfig(), CPU) == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_cpu_that_emulates_the_precision_is_named_with_what_to_type(precision: str) -> None:
    fast = {
        "bf16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
        "fp16": torch.cpu._is_amx_fp16_supported(),
    }
    notes = precision_notes(TrainConfig(precision=precision), CPU)  # type: ignore[arg-type]
    assert len(notes) == (0 if fast[precision] else 1)
    for note in notes:
        assert f"train.precision={precision}" in note
        assert "--set train.precision=fp32" in note
