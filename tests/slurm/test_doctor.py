"""`srun kws doctor` on two real nodes, one of which is wrong: rank 0 prints one table, which names that node."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.multiproc.launching import ROOT
from tests.slurm.cluster import NET, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm"), pytest.mark.slow]
NODE2 = "node2 (rank 1)"
CLOCK = """
import time
_true = time.time
time.time = lambda: _true() + 61.0
"""
"""A sitecustomize.py for the processes of one node: its clock is ahead."""


class Doctor:
    """Runs `srun kws doctor` with a rank on each node."""

    def __init__(self, cluster: Cluster, environment: dict[str, str], folder: Path) -> None:
        self._cluster, self._environment, self._folder = cluster, environment, folder

    def __call__(self, *arguments: str, on_node2: str = "") -> tuple[dict[str, dict[str, Any]], str]:
        """The rows by check, and the whole output. `on_node2`: shell commands before it starts there."""
        script = self._folder / "doctor.sh"
        script.write_text(
            f"#!/bin/bash\nif [ $SLURMD_NODENAME = node2 ]; then :; {on_node2 or ':'}; fi\n"
            f'exec {sys.executable} -m kws doctor --json "$@"\n'
        )
        script.chmod(0o755)
        words = ["srun", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--chdir", str(ROOT), str(script)]
        output = self._cluster.on("login", *words, *arguments, env=self._environment, check=False)
        tables = [json.loads(line) for line in output.splitlines() if line.startswith('{"ok"')]
        assert len(tables) == 1, output
        return {row["check"]: row for row in tables[0]["findings"]}, output


@pytest.fixture
def doctor(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> Doctor:
    return Doctor(cluster, environment, tmp_path)


def test_other_threads_a_wrong_clock_and_a_run_folder_of_its_own_are_found_on_one_node(
    doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    wrong = f"export OMP_NUM_THREADS=2 PYTHONPATH={tmp_path}:$PYTHONPATH"
    # Each node has a /dev/shm of its own.
    rows, output = doctor("--run", "/dev/shm/runs/a", "--timeout", "200", on_node2=wrong)
    assert rows["ranks"]["found"] == "2 processes on 2 nodes", output
    assert (rows["clocks"]["verdict"], rows["clocks"]["ranks"]) == ("problem", [1])
    assert f"{NODE2}: clock 61 s ahead of node1" in rows["clocks"]["found"]
    assert (rows["threads"]["verdict"], rows["threads"]["ranks"]) == ("warning", [1])
    assert "OMP_NUM_THREADS=2" in rows["threads"]["found"]
    assert (rows["one run folder"]["verdict"], rows["one run folder"]["ranks"]) == ("problem", [1])
    assert NODE2 in rows["one run folder"]["found"]
    assert rows["run folder"]["verdict"] == "warning", "/dev/shm is memory"
    # The rest is well.
    others = {check: row["verdict"] for check, row in rows.items() if row["verdict"] in ("warning", "problem")}
    assert set(others) == {"clocks", "threads", "one run folder", "run folder"}, output
    assert rows["all-reduce between nodes"]["verdict"] == "ok"
    assert "exit code 2" in output, "srun's own line"


def test_a_node_that_cannot_reach_rank_0_is_named_by_both(cluster: Cluster, doctor: Doctor) -> None:
    # node1's answers to node2 are lost, as with a firewall; Slurm's own connections to the login node are not.
    cluster.on("node1", "ip", "route", "add", "blackhole", f"{NET}.12/32")
    try:
        rows, output = doctor("--timeout", "20")
    finally:
        cluster.on("node1", "ip", "route", "del", "blackhole", f"{NET}.12/32")
    assert (rows["ranks"]["verdict"], rows["ranks"]["ranks"]) == ("problem", [1])
    assert "node2" in rows["ranks"]["found"]
    assert rows["process group"]["verdict"] == "not checked"
    assert rows["run folder"]["verdict"] == "ok", "what does not need the other node is checked"
    assert [line for line in output.splitlines() if line.startswith("kws: rank 1 on node2: cannot reach rank 0")]
    assert "Traceback" not in output
