"""The time of a run, estimated from slots on made-up clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kws import settings_file
from kws.data.index import Index
from kws.distributed import process_group
from kws.training import time_estimate
from kws.training.time_estimate import estimate_time
from kws.training.trainer import Trainer
from tests.conftest import TINY


@pytest.mark.parametrize(
    "settings",
    [
        ("frontend.augment=none", "train.precision=bf16", "train.ema=0.9"),
        pytest.param(("frontend.augment=classic",), marks=pytest.mark.slow),
    ],
)
def test_it_is_positive_and_leaves_the_random_numbers_and_the_disk_as_they_were(
    tones: Index, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    config = settings_file.from_overrides([*TINY, f"data.shards={tones.root}", "train.epochs=4", *settings])
    with process_group.start(config.train) as ranks:
        trainer = Trainer(config, tmp_path / "run", ranks)
        before = torch.get_rng_state()
        found = estimate_time(trainer)
        assert torch.equal(torch.get_rng_state(), before)
    assert 0.0 < found.step < found.epoch
    assert found.total == pytest.approx(4 * found.epoch)
    assert found.measured_clips >= 8
    assert list(tmp_path.iterdir()) == []


def test_a_slow_network_is_timed_with_few_clips(tones: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings_file.from_overrides([*TINY, f"data.shards={tones.root}", "frontend.augment=none"])
    with process_group.start(config.train) as ranks:
        trainer = Trainer(config, tmp_path / "run", ranks)
        monkeypatch.setattr(time_estimate, "AT_MOST_S", 1e-9)  # as if each clip took long
        assert estimate_time(trainer).measured_clips == 2
