from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from kws.errors import UsageError
from kws.run.checkpoint import Checkpoints
from kws.run.saver import Saver, snapshot


def test_a_write_runs_in_the_background_and_the_next_waits_for_it(tmp_path: Path) -> None:
    saver, go, order = Saver(Checkpoints(tmp_path)), threading.Event(), []
    saver.submit(lambda: (go.wait(30), order.append(1))[0])  # type: ignore[arg-type, return-value]
    assert order == []
    threading.Timer(0.05, go.set).start()
    saver.submit(lambda: order.append(2))  # waits for the first
    assert order[0] == 1
    saver.wait()
    assert order == [1, 2]
    saver.wait()


def test_the_error_of_a_write_is_raised_once(tmp_path: Path) -> None:
    saver = Saver(Checkpoints(tmp_path))
    assert not saver.failed

    def full() -> None:
        raise OSError(28, "No space left on device")

    saver.submit(full)
    while not saver.failed:
        pass
    with pytest.raises(OSError, match="No space"):
        saver.submit(lambda: None)
    assert not saver.failed
    saver.wait()


def test_a_snapshot_is_not_changed_by_the_next_step() -> None:
    tied = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tree = {"a": tied, "b": [tied, {"c": 3}], "d": (tied, None)}
    copy = snapshot(tree)
    tied += 1
    assert copy["b"][1] == {"c": 3}
    assert copy["d"][1] is None
    for kept in (copy["a"], copy["b"][0], copy["d"][0]):
        assert kept.sum() == 0
        assert kept.stride() == tied.stride(), "the optimizer's state keeps its layout"


def test_the_snapshot_is_saved_and_pointers_move_to_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    weights, moments = {"w": torch.ones(3)}, {"state": {0: {"exp_avg": torch.ones(3)}}}
    with Saver(checkpoints) as saver:
        saver.save("step-00000001", {"step": 1, "best": []}, weights, moments, {"w": torch.full((3,), 0.5)})
        weights["w"] += 1
        moments["state"][0]["exp_avg"] += 1
        saver.save_copy("step-00000001", "-evaluated", {"step": 1, "best": ["best_loss"]})
    best = checkpoints.find("best_loss")
    assert best.name == "step-00000001-evaluated"
    assert best.model()["w"].tolist() == [1, 1, 1]
    assert best.optimizer()["state"][0]["exp_avg"].tolist() == [1, 1, 1]
    averaged = best.ema()
    assert averaged is not None
    assert averaged["w"].tolist() == [0.5, 0.5, 0.5]


def test_weights_with_nan_are_not_saved(tmp_path: Path) -> None:
    saver = Saver(Checkpoints(tmp_path))
    saver.save("step-00000007", {"step": 7, "best": []}, {"w": torch.tensor([1.0, torch.nan])}, {}, None)
    with pytest.raises(UsageError, match="step 7: w"):
        saver.wait()
    assert Checkpoints(tmp_path).newest() is None
