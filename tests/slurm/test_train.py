"""slurm/train.sbatch on two real nodes: faults, and how the job recovers from them."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kws.evaluation.ledger_audit import verify_run
from tests.multiproc.launching import assert_same_bits
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.conftest import LONG, Submit, Training

pytestmark = [pytest.mark.slurm, pytest.mark.xdist_group("slurm")]
slow, heavy = pytest.mark.slow, pytest.mark.heavy
OUTAGE_S = 20.0
ACCELERATE = {"KWS_START": "accelerate"}


def assert_equals_uninterrupted(training: Training, whole: Training, starts: int) -> None:
    """Every draw consumed once, the same weights and optimizer, and each start resumed from a later step."""
    verdict = verify_run(training.run)
    assert verdict.faults == []
    assert verdict.consumed == verify_run(whole.run).consumed
    assert_same_bits(training.run, whole.run)
    began = [row["step"] for row in training.events("start")]
    assert len(began) == starts, training.log
    assert began == sorted(set(began))


def test_a_requeued_job_resumes_evaluates_and_lists_its_ranks(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """The main path, with the fewest processes: one task on each of two nodes."""
    settings = (*LONG, "train.epochs=16", "train.eval_epochs=16", "train.ema=0")  # 80 steps
    training = submit(tmp_path, *settings, options=("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"))
    cluster.on("login", "scontrol", "requeue", training.trained(13).number)  # in mid-epoch
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    for rank, host in enumerate(["node1", "node2"]):
        assert f"rank {rank}  {host}  cpu  slots {4 * rank}-{4 * rank + 3}" in training.log
    first, second = training.events("start")
    assert (first["step"], second["attempt"]) == (0, 2)
    assert second["step"] > 0
    verdict = verify_run(training.run)
    assert verdict.faults == []
    assert verdict.consumed == 80 * 32
    assert (training.run / "eval" / "test.json").exists()


# --- no faults ------------------------------------------------------------------------------------------


@heavy
def test_two_hosts_train_evaluate_and_list_their_ranks(whole: Training) -> None:
    assert "job 1, start 1" in whole.log
    for rank, host in enumerate(["node1", "node1", "node2", "node2"]):
        assert f"rank {rank}  {host}  cpu  slots {2 * rank}-{2 * rank + 1}" in whole.log
    assert (whole.run / "eval" / "test.json").exists()
    assert verify_run(whole.run).replayed == 0


def test_a_usage_error_fails_at_once(submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, "train.epohcs=3", options=("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"))
    assert training.ended() == ("FAILED", "2:0", "0")
    assert [line for line in training.log.splitlines() if "epohcs" in line and "epochs" in line]
    assert "Traceback" not in training.log


# --- faults ---------------------------------------------------------------------------------------------------


def requeue(cluster: Cluster, training: Training) -> None:
    cluster.on("login", "scontrol", "requeue", training.number)


def warn(cluster: Cluster, training: Training) -> None:
    cluster.on("login", "scancel", "--signal=USR2", training.number)


def kill_rank(cluster: Cluster, training: Training) -> None:
    cluster.signal_rank(2, 3, signal.SIGKILL)


def kill_node(number: int, cluster: Cluster, training: Training) -> None:
    cluster.kill(number)
    wait_for("job requeued", lambda: cluster.job(training.number).get("Restarts") == "1", 120)
    cluster.boot(number)


def cut_network(cluster: Cluster, training: Training) -> None:
    cluster.cut(2)
    time.sleep(OUTAGE_S)
    cluster.reconnect(2)


def stop_controller(cluster: Cluster, training: Training) -> None:
    cluster.stop_controller()
    time.sleep(OUTAGE_S)
    cluster.start_controller()


def warn_without_controller(cluster: Cluster, training: Training) -> None:
    cluster.stop_controller()
    cluster.signal_rank(1, 0, signal.SIGUSR2)
    time.sleep(OUTAGE_S)
    cluster.start_controller()


Fault = Callable[[Cluster, Training], None]


@pytest.mark.parametrize(
    ("faults", "starts"),
    [
        pytest.param((requeue,), 2, marks=heavy, id="requeued"),
        pytest.param((requeue, warn), 3, marks=heavy, id="requeued, warned"),
        pytest.param((kill_rank,), 2, marks=heavy, id="rank killed"),
        pytest.param((functools.partial(kill_node, 2),), 2, marks=heavy, id="node killed"),
        pytest.param((functools.partial(kill_node, 1),), 2, marks=heavy, id="first node killed"),
        pytest.param((cut_network,), 1, marks=heavy, id="network cut"),
        pytest.param((stop_controller,), 1, marks=heavy, id="slurmctld stopped"),
        pytest.param((warn_without_controller,), 2, marks=heavy, id="warned, slurmctld stopped"),
    ],
)
def test_after_faults_the_job_equals_an_uninterrupted_one(
    faults: tuple[Fault, ...], starts: int, cluster: Cluster, submit: Submit, whole: Training, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG)
    for steps, fault in zip((33, 80), faults, strict=False):
        fault(cluster, training.trained(steps))  # in mid-epoch
    assert training.ended() == ("COMPLETED", "0:0", str(starts - 1)), training.log
    assert_equals_uninterrupted(training, whole, starts)
    assert (training.run / "eval" / "test.json").exists()


@slow
def test_a_cancelled_job_saves_and_stays_cancelled(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, *LONG).trained(8)
    cluster.on("login", "scancel", training.number)
    assert training.ended()[0] == "CANCELLED"
    wait_for("its end", lambda: "code 75" in training.log)
    assert (training.status["state"], training.status["signal"]) == ("preempted", signal.SIGTERM)
    assert verify_run(training.run).faults == []
    assert training.status["step"] == verify_run(training.run).consumed / 32
    assert cluster.job(training.number)["Restarts"] == "0"


@heavy
@pytest.mark.parametrize("env", [{}, ACCELERATE], ids=["srun", "accelerate"])
def test_a_warning_before_the_training_has_begun_requeues_the_job(
    env: dict[str, str], cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    training = submit(tmp_path, "train.epochs=3", "data.workers=0", env=env)
    wait_for("its start", lambda: "start 1" in training.log)
    time.sleep(1.0)  # its processes run, and import torch
    cluster.on("login", "scancel", *(["--batch"] if env else []), "--signal=USR2", training.number)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert verify_run(training.run).faults == []


@slow
def test_a_process_lost_before_the_first_checkpoint_fails_the_job(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, "train.save_minutes=10", "data.epoch_clips=6400").trained(3)
    kill_rank(cluster, training)
    assert training.ended() == ("FAILED", "137:0", "0"), training.log
    assert "nothing was saved since this start" in training.log


@heavy
def test_a_job_is_requeued_after_lost_processes_up_to_a_limit(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    training = submit(tmp_path, *LONG, env={"KWS_LOST_MAX": "1"}).trained(8)
    kill_rank(cluster, training)
    wait_for("its second start", lambda: len(training.events("start")) == 2, 120)
    training.trained(30)
    kill_rank(cluster, training)
    assert training.ended() == ("FAILED", "137:0", "1"), training.log
    assert "time 2 of at most 1" in training.log


# --- another number of nodes ----------------------------------------------------------------------------------


@heavy
def test_requeued_with_one_node_instead_of_two_has_the_same_bits(
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
    assert_equals_uninterrupted(training, whole, starts=2)


# --- accelerate on each node ----------------------------------------------------------------------------------


@heavy
@pytest.mark.parametrize("batch", ["B:", ""])
def test_accelerate_on_each_node_is_warned_and_resumes(
    batch: str, cluster: Cluster, submit: Submit, whole: Training, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, env=ACCELERATE).trained(33)
    warned = ["--batch"] if batch else []
    cluster.on("login", "scancel", *warned, "--signal=USR2", training.number)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert_equals_uninterrupted(training, whole, starts=2)


@heavy
def test_accelerate_on_each_node_resumes_after_a_lost_process(
    cluster: Cluster, submit: Submit, whole: Training, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, env=ACCELERATE).trained(33)
    cluster.signal_rank(2, 3, signal.SIGKILL)
    assert training.ended() == ("COMPLETED", "0:0", "1"), training.log
    assert_equals_uninterrupted(training, whole, starts=2)


@heavy
def test_accelerate_on_each_node_fails_with_a_usage_error_after_an_earlier_stop(
    cluster: Cluster, submit: Submit, tmp_path: Path
) -> None:
    training = submit(tmp_path, *LONG, env=ACCELERATE).trained(8)
    cluster.on("login", "scancel", training.number)
    assert training.ended()[0] == "CANCELLED"
    again = submit(tmp_path, *LONG, "train.seed=9", env=ACCELERATE)
    assert again.ended() == ("FAILED", "1:0", "0")
    assert again.status["state"] == "preempted", "status.json of the earlier start is kept"
