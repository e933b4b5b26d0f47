"""kws evaluate on 1, 2 and 3 processes: the same bytes of JSON, the same predictions, plain and with crops."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.multiproc.launching import ALONE, torchrun

pytestmark = pytest.mark.multiproc


def evaluated(launcher: list[str], run: Path, *options: str) -> dict[str, bytes]:
    """Every file that an evaluation writes, read back and removed."""
    command = [*launcher, "evaluate", str(run), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy") == 1, "one rank prints"
    found = {path.name: path.read_bytes() for path in (run / "eval").iterdir()}
    saved = {path.name: dict(np.load(path)) for path in (run / "eval").glob("*.npz")}
    for path in (run / "eval").iterdir():
        path.unlink()
    arrays = {f"{name}/{key}": value.tobytes() for name, part in saved.items() for key, value in part.items()}
    return {name: data for name, data in found.items() if name.endswith(".json")} | arrays


def test_one_two_and_three_processes_find_the_same_bits(train: Callable[..., Path]) -> None:
    run = train(ALONE, "run", "train.epochs=1", "data.workers=0")
    for options in ((), ("--crop", "--split", "train")):
        one, two, three = (evaluated(launcher, run, *options) for launcher in (ALONE, torchrun(2), torchrun(3)))
        assert len(one) == 15  # JSON, five arrays of the clips, nine of the mistakes
        assert one == two == three
