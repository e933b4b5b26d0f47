"""slurm/train.sbatch on two real nodes: what is done to a job, and what the job then does by itself."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.evaluation.ledger_audit import verify_run
from tests.multiproc.test_exact import assert_same_bits
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.conftest import LONG, Submit, Training

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
slow = pytest.mark.slow
AWAY_S = 20.0
ACCELERATE = {"KWS_START": "accelerate"}


def assert_as_if_nothing_happened(training: Training, whole: Training, starts: int) -> None:
    """Every draw counted once, the same weights and optimizer, and each later start went on where one before was."""
    verdict = verify_run(training.run)
    assert verdict.faults == []
    assert verdict.consumed == verify_run(whole.run).consumed
    assert_same_bits(training.run, whole.run)
    began = [row["step"] for row in training.events("start")]
    assert len(began) == starts, training.log
    assert began == sorted(set(began)), "each start went on from a later step"


# --- nothing happens ------------------------------------------------------------------------------------------


def test_two_hosts_train_evaluate_and_say_who_they_are(whole: Training) -> None:
    assert "job 1, start 1" in whole.log
    for rank, host in enumerate(["node1", "node1", "node2", "node2"]):
        assert f"rank {rank}  {host}  cpu  slots {2 * rank}-{2 * rank + 1}" in whole.log
    assert (whole.run / "eval" / "test.json").exists()
    assert verify_run(whole.run).replayed == 0


def test_a_mistake_of_the_user_fails_at_once_with_one_line(submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, "train.epohcs=3")
    assert training.ended() == ("FAILED", "2:0", "0")
    assert [line for line in training.log.splitlines() if "epohcs" in line and "epochs" in line]
    assert "Traceback" not in training.log


def test_gpus_without_a_task_each_are_refused(submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, env={"SLURM_GPUS_PER_NODE": "a100:4"})  # this cluster has none to ask for
    assert training.ended() == ("FAILED", "2:0", "0")
    assert "found 4 GPUs and 2 tasks a node; wanted a task for each GPU: --ntasks-per-node 4" in training.log


# --- faults ---------------------------------------------------------------------------------------------------


def requeue(cluster: Cluster, training: Training) -> None:
    cluster.on("login", "scontrol", "requeue", training.number)


def warn(cluster: Cluster, training: Training) -> None:
    cluster.on("login", "scancel", "--signal=USR2", training.number)


def kill_rank(cluster: Cluster, training: Training) -> None:
    cluster.signal_rank(2, 3, signal.SIGKILL)


def kill_node(number: int, cluster: Cluster, training: Training) -> None:
    cluster.kill(number)
    wait_for("job put back", lambda: cluster.job(training.number).get("Restarts") == "1", 120)
    cluster.boot(number)


def cut_network(cluster: Cluster, training: Training) -> None:
    cluster.cut(2)
    time.sleep(AWAY_S)
    cluster.mend(2)


def stop_controller(cluster: Cluster, training: Training) -> None:
    cluster.stop_controller()
    time.sleep(AWAY_S)
    cluster.start_controller()


def warn_without_controller(cluster: Cluster, training: Training) -> None:
    cluster.stop_controller()
    cluster.signal_rank(1, 0, signal.SIGUSR2)
    time.sleep(AWAY_S)
    cluster.start_controller()


Fault = Callable[[Cluster, Training], None]


@pytest.mark.parametrize(
    ("faults", "starts"),
    [
        pytest.param((requeue,), 2, id="requeued"),
        pytest.param((requeue, warn), 3, marks=slow, id="requeued, warned"),
        pytest.param((kill_rank,), 2, marks=slow, id="rank killed"),
        pytest.param((functools.partial(kill_node, 2),), 2, marks=slow, id="node killed"),
        pytest.param((functools.partial(kill_node, 1),), 2, marks=slow, id="first node killed"),
        pytest.param((cut_network,), 1, marks=slow, id="network away"),
        pytest.param((stop_controller,), 1, marks=slow, id="slurmctld away"),
        pytest.param((warn_without_controller,), 2, marks=slow, id="warned, slurmctld away"),
    ],
)
def test_after_faults_the_job_ends_as_if_nothing_happened(
    faults: tuple[Fault, ...], starts: int, cluster: Cluster, submit: Submit, whole: Training, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG)
    for steps, fault in zip((33, 80), faults, strict=False):
        fault(cluster, training.trained(steps))  # in mid-epoch
    assert training.ended() == ("COMPLETED", "0:0", str(starts - 1)), training.log
    assert_as_if_nothing_happened(training, whole, starts)
    assert (training.run / "eval" / "test.json").exists()


def test_a_cancelled_job_saves_and_stays_cancelled(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, *LONG).trained(8)
    cluster.on("login", "scancel", training.number)
    assert training.ended()[0] == "CANCELLED"
    wait_for("its end", lambda: "code 75" in training.log)
    assert (training.status["state"], training.status["signal"]) == ("preempted", signal.SIGTERM)
    assert verify_run(training.run).faults == []
    assert training.status["step"] == verify_run(training.run).consumed / 32
    assert cluster.job(training.number)["Restarts"] == "0"


@slow
@pytest.mark.parametrize("env", [{}, ACCELERATE], ids=["srun", "accelerate"])
def test_a_warning_before_the_training_has_begun_puts_the_job_back(
    env: dict[str, str], cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    training = submit(tmp_path, "train.epochs=3", "data.workers=0", env=env)
    wait_for("its start", lambda: "start 1" in training.log)
    time.sleep(1.0)  # its processes are there, and import torch
    cluster.on("login", "scancel", *(["--batch"] if env else []), "--signal=USR2", training.number)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert verify_run(training.run).faults == []


@slow
def test_a_process_lost_before_anything_was_saved_fails_the_job(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, "train.save_minutes=10", "data.epoch_clips=6400").trained(3)
    kill_rank(cluster, training)
    assert training.ended() == ("FAILED", "137:0", "0"), training.log
    assert "nothing saved since this start" in training.log


@slow
def test_a_job_is_put_back_after_lost_processes_only_so_often(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, *LONG, env={"KWS_LOST_MAX": "1"}).trained(8)
    kill_rank(cluster, training)
    wait_for("its second start", lambda: len(training.events("start")) == 2, 120)
    training.trained(30)
    kill_rank(cluster, training)
    assert training.ended() == ("FAILED", "137:0", "1"), training.log
    assert "time 2 of at most 1" in training.log


# --- another number of nodes ----------------------------------------------------------------------------------


@slow
def test_put_back_with_one_node_instead_of_two_ends_with_the_same_bits(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    exact = (*LONG, "train.reduction=exact")
    whole = submit(tmp_path / "whole", *exact)
    assert whole.ended() == ("COMPLETED", "0:0", "0"), whole.log
    training = submit(tmp_path / "changed", *exact).trained(33)
    cluster.on("login", "scontrol", "requeuehold", training.number)
    wait_for("job held", lambda: cluster.job(training.number).get("JobState") == "PENDING", 120)
    cluster.on("login", "scontrol", "update", f"JobId={training.number}", "NumNodes=1", "NumTasks=2", "NumCPUs=2")
    cluster.on("login", "scontrol", "release", training.number)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert [row["world_size"] for row in training.events("start")] == [4, 2]
    assert_as_if_nothing_happened(training, whole, starts=2)


# --- accelerate on each node ----------------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("batch", ["B:", ""])
def test_accelerate_on_each_node_is_warned_and_goes_on(
    batch: str, cluster: Cluster, submit: Submit, whole: Training, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, env=ACCELERATE).trained(33)
    warned = ["--batch"] if batch else []
    cluster.on("login", "scancel", *warned, "--signal=USR2", training.number)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert_as_if_nothing_happened(training, whole, starts=2)


@slow
def test_accelerate_on_each_node_goes_on_after_a_lost_process(
    cluster: Cluster, submit: Submit, whole: Training, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, env=ACCELERATE).trained(33)
    cluster.signal_rank(2, 3, signal.SIGKILL)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert_as_if_nothing_happened(training, whole, starts=2)


@slow
def test_accelerate_on_each_node_fails_at_a_mistake_of_the_user_though_an_earlier_start_was_stopped(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, env=ACCELERATE).trained(8)
    cluster.on("login", "scancel", training.number)
    assert training.ended()[0] == "CANCELLED"
    again = submit(tmp_path, *LONG, "train.seed=9", env=ACCELERATE)
    assert again.ended() == ("FAILED", "1:0", "0")
    assert again.status["state"] == "preempted", "of the start before"
