"""A draw has the same augmentation parameters and the same features on any number of ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from kws.data.index import Index
from tests.multiproc import frontend_worker

pytestmark = pytest.mark.multiproc
SCRIPT = Path(__file__).parent / "frontend_worker.py"
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


def run_ranks(configs: Sequence[Path], ranks: int) -> list[dict[str, np.ndarray]]:
    """For each config, what all ranks together have made of an epoch, in order of draw. One rank is this process."""
    out = configs[0].parent / str(ranks)
    out.mkdir()
    if ranks == 1:
        frontend_worker.write_all(out, list(configs))
    else:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command = [sys.executable, *launcher, str(SCRIPT), str(out), *map(str, configs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    return [join([np.load(out / f"{config.stem}-{rank}.npz") for rank in range(ranks)]) for config in configs]


def join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["draws"])
    return {name: values[order] for name, values in whole.items()}


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_draw_is_the_same_on_any_number_of_ranks(ranks: int, tones: Index, tmp_path: Path) -> None:
    configs = [tmp_path / f"{augment}.toml" for augment in ("classic", "modern")]
    for config, features in zip(configs, ("mel32", "logmel40"), strict=True):
        config.write_text(CONFIG.format(shards=tones.root, augment=config.stem, features=features))
    for config, expected, found in zip(configs, run_ranks(configs, 1), run_ranks(configs, ranks), strict=True):
        assert expected["draws"].tolist() == list(range(192))
        assert not np.array_equal(expected["features"], expected["mixed"])
        assert len(np.unique(expected["parameters"], axis=0)) > 180
        # A slot is the same batch on any rank, so even the last bits are the same.
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=f"{name}, {config.stem}")
