"""The best checkpoint by false accepts on valid streams: the figure, the pointer, the same on any number of ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from kws.data.index import Index
from kws.errors import UsageError
from kws.results import records
from kws.streaming.curves import Curve
from kws.streaming.mixing.mix import mix
from kws.streaming.mixing.settings import MixSettings
from kws.training.state import TrainState
from kws.training.valid_stream import StreamFigures, ValidStreams, figures
from tests.conftest import train_here


def curve(hits: list[int], false_accepts: list[int]) -> Curve:
    """One word, spoken 20 times in two hours; a number for each of the rising thresholds."""
    thresholds = np.linspace(0.1, 0.9, len(hits))
    return Curve(("yes",), thresholds, np.array([hits]), np.array([false_accepts]), np.array([20]), 2.0, True)


def test_the_fewest_false_accepts_that_miss_few_enough_count() -> None:
    found = curve(hits=[20, 19, 19, 12], false_accepts=[40, 10, 4, 0])
    assert figures(found, 0.05) == StreamFigures(2.0, 0.05)
    assert figures(found, 0.0) == StreamFigures(20.0, 0.0)
    assert figures(found, 0.5) == StreamFigures(0.0, 0.4)


def test_a_network_that_misses_too_much_is_worse_than_one_that_does_not() -> None:
    deaf, half = figures(curve([0, 0], [3, 0]), 0.05), figures(curve([10, 5], [3, 0]), 0.05)
    assert deaf == (math.inf, 1.0)
    assert half == (math.inf, 0.5)
    assert StreamFigures(100.0, 0.05) < half < deaf
    assert "valid_stream_false_accepts_per_hour" not in deaf.values()


def test_the_state_keeps_the_best_figures_also_of_older_checkpoints() -> None:
    state = TrainState()
    assert state.record_detection(StreamFigures(math.inf, 0.5)) == ["best_detection"]
    assert state.record_detection(StreamFigures(3.0, 0.05)) == ["best_detection"]
    assert state.record_detection(StreamFigures(3.0, 0.05)) == []
    again = TrainState()
    again.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert again == state
    old = {key: value for key, value in state.state_dict().items() if key != "best_detection"}
    older = TrainState()
    older.load_state_dict(old)
    assert older.best_detection == (math.inf, math.inf)


@pytest.fixture(scope="module")
def streams(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of 6 s with tones of the valid split."""
    out = tmp_path_factory.mktemp("streams") / "valid"
    chosen = MixSettings(split="valid", hours=0.005, words_per_hour=1200, file_minutes=0.1, gap_s=0.2, rooms=0.0)
    mix(tones.root, out, chosen, [])
    return out


def test_a_run_with_valid_streams_names_its_best_detector(tones: Index, streams: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [f"data.shards={tones.root}", f"train.valid_stream={streams}", "train.ema=0.5"]
    code, output = train_here(run, *settings)
    assert code == 0, output
    epochs = records.rows_of(records.read_events(run / "metrics.jsonl"), "epoch")
    assert all(0.0 <= row["valid_stream_missed_share"] <= 1.0 for row in epochs)
    found = [
        (row.get("valid_stream_false_accepts_per_hour", math.inf), row["valid_stream_missed_share"]) for row in epochs
    ]
    best = records.checkpoint_name(run, "best_detection")
    assert best is not None
    state = json.loads((run / "checkpoints" / best / "state.json").read_text())
    assert state["step"] == epochs[found.index(min(found))]["step"]
    assert tuple(state["best_detection"]) == min(found)


def test_streams_that_do_not_fit_are_refused(tones: Index, streams: Path, tmp_path: Path) -> None:
    for folder, classes in ((tmp_path / "none", tones.words), (streams, ("other", "words"))):
        with pytest.raises(UsageError, match=r"train\.valid_stream"):
            ValidStreams.open(folder, classes, tones.content_id)
    manifest = json.loads((streams / "mix.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in streams.glob("stream-*"):
        (copy / path.name).symlink_to(path)
    for split, refused in (("train", True), ("test", False)):
        (copy / "mix.json").write_text(json.dumps(manifest | {"corpus": manifest["corpus"] | {"split": split}}))
        if refused:
            with pytest.raises(UsageError, match="train split"):
                ValidStreams.open(copy, tones.words, tones.content_id)
        else:
            assert any("test split" in note for note in ValidStreams.open(copy, tones.words, tones.content_id).notes)
    assert ValidStreams.open(streams, tones.words, tones.content_id).notes == ()
    assert any("another corpus" in note for note in ValidStreams.open(streams, tones.words, "0" * 32).notes)
