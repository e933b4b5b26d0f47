"""The saved mistakes: which clips, their sound and features, and that the report shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kws.config import Config, DataConfig, ModelConfig
from kws.corpus import tasks
from kws.data.index import Index
from kws.data.reader import Reader
from kws.evaluation.mistakes import worst_mistakes, write_mistakes
from kws.evaluation.split_result import SplitResult
from kws.evaluation.trained import Trained
from kws.models import registry
from kws.results.mistake_cards import mistake_cards
from kws.run.checkpoint import Checkpoint, Checkpoints
from tests.results.made_runs import HOSTILE

TRUTH = np.array([0, 1, 2, 0, 1])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.2, 0.7, 0.1]], dtype=np.float32
)
"""Clips 1, 2 and 3 are wrong; the probabilities of their true classes are 0.3, 0.1 and 0.05."""
RESULT = SplitResult(np.arange(5), TRUTH, PROBABILITIES, 1.0)


def test_the_lowest_true_probability_comes_first_and_right_answers_are_left_out() -> None:
    assert worst_mistakes(RESULT).tolist() == [3, 2, 1]
    assert worst_mistakes(RESULT, 2).tolist() == [3, 2]
    all_right = SplitResult(np.arange(5), TRUTH, np.eye(3, dtype=np.float32)[TRUTH], 0.0)
    assert worst_mistakes(all_right).tolist() == []


def test_mistakes_are_saved_with_sound_and_features_and_shown_as_cards(tones: Index, tmp_path: Path) -> None:
    state = {"task": tasks.words_task(tones.words).tree(), "words": list(tones.words)}
    network = registry.build_model("tc_resnet8", 3, (1, 40, 101))
    saved = Checkpoints(tmp_path).save(network.state_dict(), {}, state, "step-00000000")
    trained = Trained(
        Config(data=DataConfig(clip_seconds=1.0), model=ModelConfig(name="tc_resnet8")),
        Checkpoint(saved, state),
        torch.device("cpu"),
    )
    path, reader = tmp_path / "eval" / "test.mistakes.npz", Reader(tones, "test")
    path.parent.mkdir()
    write_mistakes(path, trained, reader, RESULT)
    kept = np.load(path)
    assert kept["clips"].tolist() == [3, 2, 1]
    assert (kept["truth"].tolist(), kept["predicted"].tolist()) == ([0, 2, 1], [1, 1, 0])
    np.testing.assert_allclose(kept["likely"], [0.05, 0.1, 0.3])
    np.testing.assert_allclose(kept["probability"], [0.9, 0.8, 0.6])
    for row, clip in enumerate([3, 2, 1]):
        pcm = reader.read(clip)
        assert np.array_equal(kept["wave"][row, : kept["lengths"][row]], pcm)
        assert kept["names"][row] == reader.name(clip)
        features = trained.features(torch.from_numpy(pcm[None].copy()))[0, 0]
        np.testing.assert_allclose(kept["features"][row], features, atol=5e-3)
    shown = mistake_cards(tmp_path, {"split": "test", "classes": ["a", "b", HOSTILE]})
    assert shown.count("<audio") == shown.count("<img") == 3
    assert "<b>b</b>" in shown
    assert HOSTILE not in shown
    assert "probability 60 %" in shown


def test_no_cards_are_shown_without_mistakes_or_from_a_damaged_file(tmp_path: Path) -> None:
    result = {"split": "test", "crop": True, "classes": ["a"]}
    assert mistake_cards(tmp_path, result) == ""
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "test-crop.mistakes.npz").write_bytes(b"PK half")
    assert mistake_cards(tmp_path, result) == ""
