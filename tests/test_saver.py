from __future__ import annotations

import threading

import pytest
import torch

from kws.saver import Saver, snapshot


def test_a_write_goes_on_beside_and_the_next_waits_for_it() -> None:
    saver, go, order = Saver(), threading.Event(), []
    saver.submit(lambda: (go.wait(30), order.append(1))[0])  # type: ignore[arg-type, return-value]
    assert order == []
    threading.Timer(0.05, go.set).start()
    saver.submit(lambda: order.append(2))
    assert order[0] == 1
    saver.wait()
    assert order == [1, 2]
    saver.wait()


def test_what_a_write_met_is_heard_and_raised_once() -> None:
    saver = Saver()
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
