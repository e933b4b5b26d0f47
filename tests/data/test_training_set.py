"""TrainingSet: settings applied to a corpus, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kws.config import Config, DataConfig, TrainConfig, preset
from kws.corpus import tasks
from kws.data.index import Index
from kws.data.training_set import TrainingSet
from kws.errors import UsageError
from kws.packing import pack
from tests.conftest import write_corpus

SMALL = TrainConfig(epochs=3, global_batch=32, micro_batch=8)


def test_steps_and_facts_follow_from_corpus_and_settings(tones: Index) -> None:
    training_set = TrainingSet(Config(data=DataConfig(shards=str(tones.root)), train=SMALL))
    clips = len(tones.split("train"))
    assert training_set.steps_per_epoch == -(-clips // 32)
    assert training_set.total_steps == 3 * training_set.steps_per_epoch
    assert training_set.plan(1).digest != training_set.plan(0).digest
    facts = training_set.describe()
    assert facts["corpus_id"] == tones.content_id
    assert facts["classes"] == ("high", "low", "mid")
    assert (facts["slots"], facts["world_sizes"]) == (4, [1, 2, 4])
    assert facts["clips"]["train"] == clips


def test_a_run_keeps_its_task_whatever_the_settings_name(tones: Index) -> None:
    kept = tasks.words_task(["low", "mid"])
    training_set = TrainingSet(Config(data=DataConfig(shards=str(tones.root), task="gone.toml"), train=SMALL), kept)
    assert training_set.task.classes == ("low", "mid")


def test_without_shards_the_setting_is_named() -> None:
    with pytest.raises(UsageError, match=r"data\.shards.*--set data\.shards="):
        TrainingSet(Config())


def test_a_corpus_of_one_word_is_refused(tmp_path: Path) -> None:
    corpus, _ = pack.pack([write_corpus(tmp_path / "wav", {"only": 40})], tmp_path / "shards")
    with pytest.raises(UsageError, match="only"):
        TrainingSet(Config(data=DataConfig(shards=str(corpus.root)), train=SMALL))


def test_a_corpus_with_an_empty_valid_split_is_refused(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "wav", {"low": 20, "high": 20})
    corpus, _ = pack.pack([source], tmp_path / "shards", pack.PackOptions(percents=(0.0, 10.0)))
    with pytest.raises(UsageError, match=r"valid.*--valid"):
        TrainingSet(Config(data=DataConfig(shards=str(corpus.root)), train=SMALL))


@pytest.mark.parametrize(
    ("longest", "changes", "wanted"),
    [
        (16000, {"speed": 0.2}, 16000),  # no clip is longer
        (22400, {"speed": 0.2}, 20001),
        (17000, {"speed": 0.2}, 17000),
        (22400, {"speed": 0.2, "speed_probability": 0.0}, 16000),
        (8000, {"speed": 0.2}, 16000),
    ],
)
def test_clips_are_read_as_long_as_speed_may_need(
    tones: Index, longest: int, changes: dict[str, Any], wanted: int
) -> None:
    settings = Config(data=DataConfig(shards=str(tones.root)), frontend=preset("classic", **changes))
    training_set = TrainingSet(settings)
    columns = dict(training_set.index.split("train").columns)
    columns["samples"] = np.minimum(columns["samples"], longest)
    columns["samples"][7] = longest
    object.__setattr__(training_set.index.split("train"), "columns", columns)
    assert training_set.read_samples == wanted
