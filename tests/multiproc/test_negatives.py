"""Windows of negatives and valid streams on several ranks: killed, resumed on another number, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.data.index import Index
from kws.evaluation.ledger_audit import verify_run
from kws.packing import pack
from kws.streaming.mixing.mix import mix
from kws.streaming.mixing.settings import MixSettings
from tests.multiproc.launching import assert_same_bits, events, losses, overrides, train_killed_and_resumed

pytestmark = [pytest.mark.multiproc, pytest.mark.slow]


@pytest.fixture
def settings(tones: Index, tmp_path: Path) -> tuple[str, ...]:
    """Of a run on the tones with negatives and valid streams of several files."""
    talks = tmp_path / "talks"
    talks.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        wave = (rng.standard_normal(5 * 16000) * 1000).astype(np.int16)
        (talks / f"{number}.wav").write_bytes(codec.wav_bytes(wave))
    options = pack.PackOptions(shard_bytes=300_000, negatives=(talks,))
    pack.pack([tones.root.parent / "wav"], tmp_path / "shards", options)
    chosen = MixSettings(split="valid", hours=0.005, words_per_hour=1200, file_minutes=0.1, gap_s=0.2, rooms=0.0)
    mix(tmp_path / "shards", tmp_path / "streams", chosen, [])
    return (
        f"data.shards={tmp_path / 'shards'}", "data.negatives=0.3", f"train.valid_stream={tmp_path / 'streams'}",
        "train.valid_stream_miss=0.3", "train.reduction=exact", "train.threads=0", "train.epochs=3",
        "train.save_minutes=0", "data.ledger=true", "frontend.augment=classic",
    )  # fmt: skip


def test_killed_and_resumed_on_another_number_of_ranks_has_the_same_bits(
    config: Path, tmp_path: Path, settings: tuple[str, ...], kws_here: Callable[..., int]
) -> None:
    one, run = tmp_path / "one", tmp_path / "run"
    assert kws_here("train", config, "--run", one, *overrides(*settings)) == 0
    train_killed_and_resumed(config, run, *settings, saved=10)
    assert_same_bits(one, run)
    assert losses(one) == losses(run)
    verdict = verify_run(run)
    assert not verdict.faults
    figures = [
        {row["epoch"]: (row.get("valid_stream_false_accepts_per_hour"), row["valid_stream_missed_share"])
         for row in events(each, "epoch")}
        for each in (one, run)
    ]  # fmt: skip
    assert figures[0] == figures[1]
    assert len(figures[0]) == 3
    pointers = [(each / "checkpoints" / "best_detection").read_text() for each in (one, run)]
    assert pointers[0] == pointers[1]
