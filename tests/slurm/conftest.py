"""One Slurm for all tests here, and short jobs for it."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kws.data.index import Index
from tests.conftest import require
from tests.multiproc.launching import ROOT, SETTINGS, overrides, steps_done
from tests.slurm.cluster import Cluster, missing, wait_for

SHAPE = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1")
LONG = ("train.epochs=30", "train.eval_epochs=10", "train.save_minutes=0.01", "data.workers=0", "train.ema=0.9")
"""150 steps, half a minute on two cores; saves at nearly every step."""


@dataclasses.dataclass
class Training:
    """A submitted slurm/train.sbatch."""

    cluster: Cluster
    number: str
    run: Path
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @property
    def status(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "status.json").read_text()))

    def events(self, kind: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if row["event"] == kind]

    def trained(self, steps: int) -> Training:
        """Waits until it has done so many steps, over all its starts."""
        wait_for(f"{steps} steps of job {self.number}", lambda: steps_done(self.run) >= steps, 240)
        return self

    def ended(self) -> tuple[str, str, str]:
        """Waits for its end. Returns state, exit code and number of restarts."""
        job = self.cluster.ended(self.number)
        return job["JobState"], job["ExitCode"], job["Restarts"]


Submit = Callable[..., Training]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    why = missing()
    require("slurm", why is None, why or "")
    found = Cluster(Path(f"/tmp/kws-cluster-test-{os.getpid()}"))
    found.up()
    try:
        yield found
    finally:
        found.down()


@pytest.fixture(scope="session")
def config(tones: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(SETTINGS.replace("[data]", f'[data]\nshards = "{tones.root}"'))
    return path


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Variables with which Slurm starts this `kws`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def submit(cluster: Cluster, config: Path, environment: dict[str, str]) -> Submit:
    """submit(folder, *settings, options=(...), env={...}, config=...) submits slurm/train.sbatch."""

    def start(
        folder: Path, *settings: str, options: tuple[str, ...] = SHAPE, env: dict[str, str] | None = None,
        config: Path = config,
    ) -> Training:  # fmt: skip
        folder.mkdir(exist_ok=True)  # without a folder for its log, a job fails silently
        words = [*options, f"--chdir={ROOT}", f"--output={folder}/log", "slurm/train.sbatch"]
        number = cluster.sbatch(
            *words, str(config), "--run", str(folder / "run"), *overrides(*settings), env=environment | (env or {})
        )
        return Training(cluster, number, folder / "run", folder / "log")

    return start


@pytest.fixture(scope="session")
def whole(submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """An uninterrupted job."""
    training = submit(tmp_path_factory.mktemp("whole"), *LONG)
    assert training.ended() == ("COMPLETED", "0:0", "0"), training.log
    return training
