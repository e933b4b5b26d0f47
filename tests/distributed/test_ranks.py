import os
import signal
import time
from collections.abc import Iterator

import pytest
import torch

from kws.config import TrainConfig
from kws.distributed import process_group, signals, slurm
from kws.distributed.ranks import Ranks
from kws.errors import UsageError

STEP = {
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[03-05,07]",
    "SLURM_JOB_ID": "1234567",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name)


def test_an_srun_step_is_said_in_the_launchers_words() -> None:
    env = dict(STEP)
    slurm.adopt_srun_step(env)
    assert {name: env[name] for name in env.keys() - STEP.keys()} == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "30567",
    }


def test_an_address_that_is_set_stays() -> None:
    env = {**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29999"}
    slurm.adopt_srun_step(env)
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("10.0.0.1", "29999")


@pytest.mark.parametrize("env", [{}, {"SLURM_PROCID": "0", "SLURM_JOB_ID": "3"}, {**STEP, "RANK": "1"}])
def test_outside_a_step_or_under_a_launcher_nothing_is_set(env: dict[str, str]) -> None:
    after = dict(env)
    slurm.adopt_srun_step(after)
    assert after == env


@pytest.mark.parametrize(
    ("counts", "node", "here"),
    [("4", 0, "4"), ("2(x3)", 2, "2"), ("2(x3),1", 3, "1"), ("1,2(x2),16", 1, "2"), ("1,2(x2),16", 3, "16")],
)
def test_tasks_of_this_node_are_read_in_every_form(counts: str, node: int, here: str) -> None:
    assert slurm._tasks_on_this_node({"SLURM_STEP_TASKS_PER_NODE": counts, "SLURM_NODEID": str(node)}) == here


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("login", "login"),
        ("a,b", "a"),
        ("gpu[01-03,07],login", "gpu01"),
        ("gpu[007]", "gpu007"),
        ("a1,gpu[1-2]", "a1"),
        ("rack[1-2]node[3,5]-ib", "rack1node3-ib"),
        ("10-1-2-3", "10-1-2-3"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert slurm._first_host(nodes) == first


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in signals.STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_many_signals_are_one_request_that_names_the_first() -> None:
    stop = signals.StopRequest()
    assert not stop
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        os.kill(os.getpid(), number)
    until = time.monotonic() + 60.0
    while not stop and time.monotonic() < until:
        time.sleep(0.01)
    assert stop
    assert stop.signal == signal.SIGUSR2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match=r"train\.device: cuda, .*--set train\.device=cpu"):
        process_group.start(TrainConfig(device="cuda")).__enter__()


class Alone:
    """Stands where accelerate's would: nothing here asks for it."""


def test_alone_every_collective_is_the_value_itself() -> None:
    here = Ranks(0, 1, torch.device("cpu"), 1, Alone())
    assert here.is_main
    assert here.gather("mine") == ["mine"]
    assert here.on_main(lambda: 3) == 3
    assert here.sum(torch.tensor([2.0])).item() == 2.0
    here.barrier()
    assert here.table(8)[0]["slots"] == "0-7"


def test_what_the_user_must_mend_on_rank_0_is_raised() -> None:
    def refuse() -> None:
        raise UsageError("disk: full")

    with pytest.raises(UsageError, match="disk: full"):
        Ranks(0, 1, torch.device("cpu"), 1, Alone()).on_main(refuse)
