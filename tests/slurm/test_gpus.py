"""All ways of asking SLURM for GPUs, on nodes with four pretended ones: what train.sbatch makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.multiproc.launching import ROOT
from tests.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
slow = pytest.mark.slow
SHOW = """#!/bin/sh
echo "$(basename $0): task $SLURM_PROCID on $SLURMD_NODENAME, GPUs ${CUDA_VISIBLE_DEVICES-none}," \\
    "cores $SLURM_CPUS_PER_TASK: $*"
"""


SubmitShown = Callable[..., tuple[str, str]]


@pytest.fixture
def submit_shown(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> SubmitShown:
    """submit_shown(options, words, env) runs train.sbatch with programs that only show how they were started. Returns
    the job's exit code and its log."""
    for name in ("kws", "accelerate"):
        (tmp_path / name).write_text(SHOW)
        (tmp_path / name).chmod(0o755)

    def run(options: str, words: str = "", env: dict[str, str] | None = None, script: str = "train") -> tuple[str, str]:
        log = tmp_path / "log"
        asked = [*options.split(), f"--chdir={ROOT}", f"--output={log}", f"slurm/{script}.sbatch", "quick"]
        path = {"PATH": f"{tmp_path}:{environment['PATH']}", "KWS_EVALUATE": "no"}
        number = cluster.sbatch(*asked, *words.split(), env=environment | path | (env or {}))
        return cluster.ended(number)["ExitCode"], log.read_text()

    return run


def tasks(log: str, program: str = "kws") -> list[str]:
    """`task on node: GPUs` of each task."""
    found = re.findall(rf"{program}: task (\d) on (\w+), GPUs ([\w,]+),", log)
    return sorted(f"{task} {node} {gpus}" for task, node, gpus in found)


ALONE = ["0 node1 0,1", "1 node1 0,1"]
NODES = [*ALONE, "2 node2 0,1", "3 node2 0,1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--gpus-per-node=2 --ntasks-per-node=2", ALONE),
        pytest.param("--gpus-per-node=a100:2 --ntasks-per-node=2 --nodes=2", NODES, marks=slow),
        ("--gres=gpu:2 --ntasks-per-node=2 --nodes=2", NODES),
        pytest.param("--gres=gpu:a100:2 --ntasks=2", ALONE, marks=slow),
        pytest.param("--gpus=2 --ntasks-per-node=2", ALONE, marks=slow),
        pytest.param("--gpus=a100:2 --ntasks-per-gpu=1", ALONE, marks=slow),
        pytest.param("--gpus-per-task=1 --ntasks=2", ALONE, marks=slow),
        # Slurm 22.05 would give a step none of these: it takes the option again, and not its type.
        ("--gpus-per-task=a100:1 --ntasks-per-node=2", ALONE),
        pytest.param("--gpus-per-socket=1 --sockets-per-node=2 --ntasks-per-node=2", ALONE, marks=slow),
        # It would give the steps of an exclusive job none either.
        pytest.param(
            "--exclusive --ntasks-per-node=4 --cpus-per-task=2", [f"{n} node1 0,1,2,3" for n in range(4)], marks=slow
        ),
        pytest.param(
            "--gpus-per-node=2 --ntasks-per-node=2 --gpu-bind=single:1", ["0 node1 0", "1 node1 1"], marks=slow
        ),
    ],
)
def test_each_task_sees_gpus_however_they_were_asked_for(
    submit_shown: SubmitShown, options: str, expected: list[str]
) -> None:
    code, log = submit_shown(options)
    assert code == "0:0", log
    assert tasks(log) == expected, log
    assert f"--set train.processes={len(expected)} --set train.device=cuda" in log


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("--gres=gpu:4", "--ntasks-per-node=4"),
        pytest.param("--gpus-per-node=1 --ntasks-per-node=2", "--ntasks-per-node=1", marks=slow),
        pytest.param("--gpus-per-task=2 --ntasks-per-node=2", "--gpus-per-task=2; wanted 1", marks=slow),
        ("--gpus=4 --nodes=2 --ntasks-per-node=2", "--gpus-per-node=N"),  # three on one node, one on the other
        pytest.param("--gpus=3 --nodes=2 --ntasks-per-node=2", "--gpus-per-node=N", marks=slow),
        pytest.param("--gpus-per-task=1 --ntasks=4 --nodes=2", "--ntasks-per-node", marks=slow),  # 3,1 tasks
    ],
)
def test_gpus_and_tasks_that_do_not_fit_are_refused(submit_shown: SubmitShown, options: str, wanted: str) -> None:
    code, log = submit_shown(f"{options} --cpus-per-task=1")
    assert code == "2:0", log
    assert wanted in log
    assert tasks(log) == []


def test_accelerate_starts_on_the_gpus_that_slurm_gave(submit_shown: SubmitShown) -> None:
    code, log = submit_shown("--gres=gpu:2 --ntasks-per-node=2 --nodes=2", env={"KWS_START": "accelerate"})
    assert code == "0:0", log
    assert tasks(log, "accelerate") == ["0 node1 0,1", "1 node2 0,1"]
    assert "launch/nodes.yaml --num_machines 2 --num_processes 4" in log
    assert "cores 8" in log


def test_gpus_that_slurm_did_not_give_are_never_ignored(submit_shown: SubmitShown, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-1)'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    accelerate = {"KWS_START": "accelerate"}
    code, log = submit_shown("--ntasks-per-node=2", env=accelerate)
    assert code == "2:0"
    assert "--set train.device=cpu" in log
    for device, file in (("cpu", "cpu2"), ("cuda", "nodes")):
        code, log = submit_shown("--ntasks-per-node=2", f"--set train.device={device}", accelerate)
        assert code == "0:0"
        assert f"launch/{file}.yaml" in log


@slow
def test_an_evaluation_may_leave_gpus_unused(submit_shown: SubmitShown) -> None:
    code, log = submit_shown("--gres=gpu:2", script="evaluate")
    assert (code, tasks(log)) == ("0:0", ["0 node1 0,1"]), log
