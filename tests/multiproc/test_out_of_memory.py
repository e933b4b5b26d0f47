"""A GPU that is out of memory, in training and in evaluation: a line that says what to lower, and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from tests.multiproc.launching import status


def out_of_memory(*_: object, **__: object) -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB.")


@pytest.mark.slow
def test_training_and_evaluation_say_what_to_lower(
    config: Path, kws_here: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    words = ("train", config, "--run", run, "--set", "train.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "backward", out_of_memory)
        assert kws_here(*words) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "--set train.micro_batch=" in shown
    assert "--set train.precision=bf16" in shown
    assert (status(run)["state"], status(run)["code"]) == ("failed", 2)
    with monkeypatch.context() as patch:  # also while it evaluates; then the same command resumes
        patch.setattr(torch, "log_softmax", out_of_memory)
        assert kws_here(*words) == 2
    assert kws_here(*words) == 0
    capsys.readouterr()
    monkeypatch.setattr(torch, "log_softmax", out_of_memory)
    assert kws_here("evaluate", run) == 2
    shown = capsys.readouterr().err
    assert "CUDA_VISIBLE_DEVICES= before the command" in shown
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
