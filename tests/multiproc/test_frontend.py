"""A draw has the same augmentation parameters and the same features on any number of ranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kws.data.index import Index
from kws.distributed.ranks import Ranks
from tests.multiproc import frontend_worker

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


def run_ranks(configs: Sequence[Path], count: int, processes: bool) -> list[dict[str, np.ndarray]]:
    """For each config, what all ranks together have made of an epoch, in order of draw.

    Without `processes` the ranks run one after the other in this process: the front end needs no communication.
    """
    out = configs[0].parent / str(count)
    out.mkdir()
    if processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *launcher, str(SCRIPT), str(out), *map(str, configs)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    else:
        for rank in range(count):
            ranks = Ranks(rank, count, torch.device("cpu"), 1, None)  # type: ignore[arg-type]
            frontend_worker.write_results(out, configs, ranks)
    return [join([np.load(out / f"{config.stem}-{rank}.npz") for rank in range(count)]) for config in configs]


def join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["draws"])
    return {name: values[order] for name, values in whole.items()}


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=[pytest.mark.heavy, pytest.mark.multiproc])])
def test_a_draw_is_the_same_on_any_number_of_ranks(processes: bool, tones: Index, tmp_path: Path) -> None:
    configs = [tmp_path / f"{augment}.toml" for augment in ("classic", "modern")]
    for config, features in zip(configs, ("mel32", "logmel40"), strict=True):
        config.write_text(CONFIG.format(shards=tones.root, augment=config.stem, features=features))
    one = run_ranks(configs, 1, processes=False)
    two, four = (run_ranks(configs, count, processes) for count in (2, 4))
    for number, (config, expected) in enumerate(zip(configs, one, strict=True)):
        assert expected["draws"].tolist() == list(range(192))
        assert not np.array_equal(expected["features"], expected["mixed"])
        assert len(np.unique(expected["parameters"], axis=0)) > 180
        # A slot is the same batch on any rank, so even the last bits are the same.
        for name, values in expected.items():
            for found in (two[number], four[number]):
                np.testing.assert_array_equal(found[name], values, err_msg=f"{name}, {config.stem}")
