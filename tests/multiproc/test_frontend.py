"""The same draw on one, two and four ranks of real processes: the same parameters, and the same features."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from kws.data.index import Index

pytestmark = pytest.mark.multiproc
SCRIPT = Path(__file__).parent / "through_frontend.py"
CONFIG = """
[data]
shards = "{shards}"
epoch_clips = 192
clip_seconds = 0.35
silence = 0.1
[frontend]
features = "{features}"
augment = "{augment}"
mixup_probability = 0.5
[train]
global_batch = 48
micro_batch = 6
device = "cpu"
threads = 1
seed = 11
"""


def through(configs: list[Path], ranks: int) -> list[dict[str, np.ndarray]]:
    """What all ranks together made of an epoch, in order of draw, of each config."""
    out = configs[0].parent / str(ranks)
    out.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(SCRIPT), str(out), *map(str, configs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return [joined([np.load(out / f"{config.stem}-{rank}.npz") for rank in range(ranks)]) for config in configs]


def joined(parts: list[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["draws"])
    return {name: values[order] for name, values in whole.items()}


def test_a_draw_is_the_same_on_any_number_of_ranks(tones: Index, tmp_path: Path) -> None:
    configs = [tmp_path / f"{augment}.toml" for augment in ("classic", "modern")]
    for config, features in zip(configs, ("mel32", "logmel40"), strict=True):
        config.write_text(CONFIG.format(shards=tones.root, augment=config.stem, features=features))
    alone, two, four = (through(configs, ranks) for ranks in (1, 2, 4))
    for number, wanted in enumerate(alone):
        assert wanted["draws"].tolist() == list(range(192))
        assert not np.array_equal(wanted["features"], wanted["mixed"])
        assert len(np.unique(wanted["drawn"], axis=0)) > 180
        for found in (two[number], four[number]):
            # A slot is the same batch wherever it runs, so even the last bits are the same.
            for name, values in wanted.items():
                np.testing.assert_array_equal(found[name], values, err_msg=f"{name}, {configs[number].stem}")
