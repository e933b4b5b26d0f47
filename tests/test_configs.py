from pathlib import Path

import pytest

from kws import config as settings_file
from kws import models
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.audio.features import Features

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.toml"))


def test_there_are_configs() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_its_network_builds_at_its_front_ends_shape(path: Path) -> None:
    config = settings_file.load(path)
    features = Features(config.frontend.features)
    shape = features.shape(round(config.data.clip_seconds * SAMPLE_RATE_HZ))
    assert models.count_parameters(models.build(config.model.name, 35, shape)) > 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_its_head_says_command_hardware_time_and_score(path: Path) -> None:
    comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    first_words = {line.split()[0] for line in comments if line}
    assert {"command", "hardware", "score"} <= first_words
    assert first_words & {"time", "hours"}
