import pytest

from kws.audio.features import Features
from kws.config import Config, FrontEndConfig, ModelConfig
from kws.models.registry import build_model
from kws.training.network_notes import network_notes


def notes_of(name: str, features: str = "logmel40_stream", seconds: float = 1.0) -> list[str]:
    config = Config(model=ModelConfig(name=name), frontend=FrontEndConfig(features=features))  # type: ignore[arg-type]
    shape = Features(features).shape(round(16000 * seconds))
    return network_notes(build_model(name, 3, shape), config, shape[2])


@pytest.mark.parametrize("name", ["tc_resnet8", "mixednet"])
def test_nothing_is_said_where_clips_hold_all_that_the_network_sees(name: str) -> None:
    assert notes_of(name) == []


def test_clips_shorter_than_the_receptive_field_are_named_with_a_length_that_is_enough() -> None:
    (note,) = notes_of("tc_resnet8_causal")
    assert "171 frames" in note
    assert "data.clip_seconds=1.8" in note
    assert "frontend.place=anywhere" in note
    assert notes_of("tc_resnet8_causal", seconds=1.8) == []


def test_features_that_cannot_be_streamed_are_named() -> None:
    (note,) = notes_of("mixednet", "logmel40")
    assert "frontend.features=logmel40_stream" in note
