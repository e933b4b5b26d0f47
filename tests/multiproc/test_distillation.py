"""train.teacher under reduction = "exact": the same bits on any number of processes, and after a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kws.data.index import Index
from tests.conftest import train_here
from tests.multiproc.launching import assert_same_bits, losses, overrides, train_killed_and_resumed

pytestmark = [pytest.mark.multiproc, pytest.mark.xdist_group("pair")]
Run = Callable[..., Path]
EXACT = (
    "train.reduction=exact", "train.threads=0", "train.epochs=2", "train.ema=0.9", "train.save_minutes=0",
    "frontend.mixup_probability=0.5", "frontend.augment=none", "frontend.band_masks=1", "data.workers=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def teachers(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting for a teacher with the student's features and averaged weights, and one with other features."""
    folder, common = tmp_path_factory.mktemp("teachers"), (f"data.shards={tones.root}", "frontend.augment=none")
    assert train_here(folder / "same", *common, "train.ema=0.5")[0] == 0
    assert train_here(folder / "other", *common, "frontend.features=mfcc40")[0] == 0
    return f"train.teacher={folder / 'same'}, {folder / 'other'}"


def test_a_student_killed_on_two_processes_and_resumed_on_four_has_the_bits_of_one_process(
    config: Path, tmp_path: Path, kws_here: Callable[..., int], teachers: str
) -> None:
    one, run = tmp_path / "one", tmp_path / "run"
    assert kws_here("train", config, "--run", one, *overrides(*EXACT, teachers)) == 0
    train_killed_and_resumed(config, run, *EXACT, teachers, saved=2)
    assert_same_bits(one, run)
    assert losses(one) == losses(run)


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["classic", "modern"])
def test_one_two_and_four_processes_have_the_same_bits_with_every_step_of_the_augmentation(
    train: Run, teachers: str, chain: str
) -> None:
    settings = (*EXACT, f"frontend.augment={chain}", teachers)
    one, two, four = (train(ranks, name, *settings) for ranks, name in ((1, "one"), (2, "two"), (4, "four")))
    for other in (two, four):
        assert_same_bits(one, other)
        assert losses(one) == losses(other)
