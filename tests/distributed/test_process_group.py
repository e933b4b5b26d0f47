import threading
from collections.abc import Iterator

import pytest
import torch

from kws.config import TrainConfig
from kws.distributed import process_group, rendezvous
from kws.errors import UsageError


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that it is restored
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_single_process_is_rank_0_of_1() -> None:
    with process_group.start(TrainConfig(device="cpu", threads=1)) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.device.type, ranks.threads) == (0, 1, "cpu", 1)
        model = torch.nn.Linear(2, 2)
        assert process_group.wrap_ddp(ranks, model) is model


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"train\.device: .*--set train\.device=cpu"):
        process_group.start(TrainConfig(device="cuda")).__enter__()


def test_another_number_of_processes_than_asked_for_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"train\.processes: 2 .*--set train\.processes=1"):
        process_group.start(TrainConfig(device="cpu", threads=1, processes=2)).__enter__()


def test_a_start_that_takes_too_long_ends_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(process_group, "START_S", 0.05)
    monkeypatch.setattr(process_group.os, "_exit", lambda code: ended.set())
    with process_group.time_limit(0.01, "the ranks did not connect", rendezvous.network_advice()):
        assert ended.wait(60)
    line = capfd.readouterr().err.splitlines()[0]
    for named in ("rank 0", "the ranks did not connect within", "NCCL_SOCKET_IFNAME", "--set train.hang_s="):
        assert named in line
