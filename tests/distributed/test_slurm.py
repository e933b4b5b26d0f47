import os

import pytest

from kws.distributed import slurm

STEP = {
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[03-05,07]",
    "SLURM_JOB_ID": "1234567",
}


def adopted(**changes: str) -> dict[str, str]:
    """The environment of a rank of the step above, with changes, after adopt_srun_step."""
    env = STEP | changes
    slurm.adopt_srun_step(env)
    return env


def test_an_srun_step_sets_the_variables_of_torch_distributed() -> None:
    env = adopted()
    assert {name: env[name] for name in env.keys() - STEP.keys()} == {
        "RANK": "5",
        "WORLD_SIZE": "7",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "gpu03",
        "MASTER_PORT": "30567",
    }


def test_an_address_that_is_set_is_kept() -> None:
    env = adopted(MASTER_ADDR="10.0.0.1", MASTER_PORT="29999")
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("10.0.0.1", "29999")


@pytest.mark.parametrize("env", [{}, {"SLURM_PROCID": "0", "SLURM_JOB_ID": "3"}, {**STEP, "RANK": "1"}])
def test_outside_a_step_and_under_a_launcher_nothing_is_set(env: dict[str, str]) -> None:
    after = dict(env)
    slurm.adopt_srun_step(after)
    assert after == env


def test_without_an_argument_the_environment_of_the_process_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    slurm.adopt_srun_step()
    assert os.environ["RANK"] == "5"
    assert slurm.job_id() == "1234567"


@pytest.mark.parametrize(
    ("counts", "node", "expected"),
    [("4", 0, "4"), ("2(x3)", 2, "2"), ("2(x3),1", 3, "1"), ("1,2(x2),16", 1, "2"), ("1,2(x2),16", 3, "16")],
)
def test_the_tasks_of_this_node_are_read_in_every_form(counts: str, node: int, expected: str) -> None:
    env = adopted(SLURM_STEP_TASKS_PER_NODE=counts, SLURM_NODEID=str(node))
    assert env["LOCAL_WORLD_SIZE"] == expected


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
def test_the_main_address_is_the_first_host_of_the_node_list(nodes: str, first: str) -> None:
    assert adopted(SLURM_STEP_NODELIST=nodes)["MASTER_ADDR"] == first


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("gpu[08-10,12],login", ["gpu08", "gpu09", "gpu10", "gpu12", "login"]),
        ("r[0-1]n[1-2]x", ["r0n1x", "r0n2x", "r1n1x", "r1n2x"]),
        ("node1", ["node1"]),
    ],
)
def test_the_hosts_of_a_step_are_listed(nodes: str, hosts: list[str]) -> None:
    assert slurm.step_hosts({"SLURM_STEP_NODELIST": nodes}) == hosts
    assert slurm.step_hosts({}) == []
