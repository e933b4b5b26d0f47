"""Damaged and remote shards on several ranks: one line that names them, or skipped clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.data import index
from kws.data.index import Index
from kws.evaluation.ledger_audit import verify_run
from kws.run import folder as run_folder
from tests.data.web import serve
from tests.multiproc.launching import finish, losses, start

pytestmark = [pytest.mark.multiproc, pytest.mark.slow]
Run = Callable[..., Path]
CLIP = 17
EVERY_CLIP = "data.sampling=natural"


@pytest.fixture
def damaged(tones: Index, tmp_path: Path) -> Path:
    """A copy of the corpus with one flipped bit in the audio of training clip CLIP."""
    folder = tmp_path / "damaged"
    shutil.copytree(tones.root, folder)
    columns = index.load(folder).split("train").columns
    shard = index.load(folder).split("train").shards[columns["shard"][CLIP]]
    with (folder / shard.name).open("r+b") as file:
        file.seek(int(columns["offset"][CLIP]) + 1000)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    return folder


def test_a_damaged_clip_ends_the_run_with_one_line_that_names_shard_and_clip(
    damaged: Path, config: Path, tmp_path: Path
) -> None:
    code, output = finish(start(2, config, tmp_path / "run", f"data.shards={damaged}", EVERY_CLIP))
    assert code != 0
    lines = [line for line in output.splitlines() if line.startswith("kws: ") and "crc32" in line]
    assert len(lines) == 1, output
    assert f"clip {CLIP} (" in lines[0]
    assert str(damaged / "train") in lines[0]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"


def test_a_skipped_clip_is_recorded_and_all_ranks_do_all_steps(damaged: Path, train: Run) -> None:
    run = train(2, "run", f"data.shards={damaged}", "data.on_bad=skip", EVERY_CLIP, "train.epochs=2")
    assert run_folder.skipped_clips(run) == [CLIP]
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == (
        "finished",
        2 * json.loads((run / "run.json").read_text())["steps_per_epoch"],
    )
    assert verify_run(run).faults == []
    assert verify_run(run).consumed == 2 * (len(index.load(damaged).split("train")) - 1)


def test_two_ranks_train_over_http_and_fetch_each_shard_once(
    tones: Index, train: Run, kws: Callable[..., object], tmp_path: Path
) -> None:
    local = train(2, "local", "train.epochs=1")
    with serve(tones.root) as web:
        names = {name: [shard.name for shard in split.shards] for name, split in tones.splits.items()}
        listed = tmp_path / "shards.txt"
        listed.write_text("\n".join(name for shards in names.values() for name in shards))
        kws("index", web.url, "--shards", listed, "--out", tmp_path / "theirs")
        web.served.clear()
        cache = f"data.cache_dir={tmp_path / 'cache'}"
        run = train(2, "remote", f"data.shards={tmp_path / 'theirs'}", cache, "train.epochs=1")
        assert {web.served[name] for name in names["train"]} == {1}
    assert verify_run(run).faults == []
    assert losses(local) == losses(run)


def test_a_missing_shard_is_one_line_that_names_it(tones: Index, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lacking"
    shutil.copytree(tones.root, folder)
    missing = sorted((folder / "train").glob("*.tar"))[0]
    missing.unlink()
    code, output = finish(start(2, config, tmp_path / "run", f"data.shards={folder}"))
    assert code != 0
    lines = [line for line in output.splitlines() if line.startswith("kws: ") and missing.name in line]
    assert 1 <= len(lines) <= 2, output
