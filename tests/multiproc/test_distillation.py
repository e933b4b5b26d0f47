"""train.teacher under reduction = "exact", alone (test_exact.py has it beside other settings): the same bits on any
number of processes, and after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.multiproc.launching import assert_same_bits, losses, overrides, train_killed_and_resumed

pytestmark = [pytest.mark.multiproc, pytest.mark.slow, pytest.mark.xdist_group("pair")]
EXACT = ("train.reduction=exact", "train.threads=0", "train.epochs=3", "train.save_minutes=0", "data.workers=0")


@pytest.mark.parametrize("chain", ["classic", "modern"])
def test_one_two_and_four_processes_have_the_same_bits(train: Callable[..., Path], teachers: str, chain: str) -> None:
    settings = (*EXACT, f"frontend.augment={chain}", teachers)
    one, two, four = (train(ranks, name, *settings) for ranks, name in ((1, "one"), (2, "two"), (4, "four")))
    for other in (two, four):
        assert_same_bits(one, other)
        assert losses(one) == losses(other)


def test_a_student_killed_on_two_processes_and_resumed_on_four_has_the_bits_of_one_process(
    config: Path, tmp_path: Path, kws_here: Callable[..., int], teachers: str
) -> None:
    one, run = tmp_path / "one", tmp_path / "run"
    settings = (*EXACT, teachers, "train.teacher_weight=1", "frontend.normalise=corpus")
    assert kws_here("train", config, "--run", one, *overrides(*settings)) == 0
    train_killed_and_resumed(config, run, *settings, saved=2)
    assert_same_bits(one, run)
    assert losses(one) == losses(run)
