from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from kws.distributed import rank_devices
from kws.distributed.rank_devices import RankDevice, find_fault, threads_for_all, why_not_shared


def on_gpus(*gpus: Sequence[str], visible: Sequence[str] = (), host: str = "node1", first: int = 0) -> list[RankDevice]:
    """One rank per entry of `gpus`, the PCI address of its GPU; `visible`: by default it sees only that."""
    return [
        RankDevice(
            rank=first + number, host=host, machine=host, device="cuda:0", gpu=str(gpu), alone_on=str(gpu),
            why_alone="NCCL 2.28 wants one each", visible=tuple(visible) or (str(gpu),),
        )
        for number, gpu in enumerate(gpus)
    ]  # fmt: skip


def on_cpu(*cores: Sequence[int], host: str = "node1") -> list[RankDevice]:
    return [RankDevice(rank=n, host=host, machine=host, cores=tuple(some)) for n, some in enumerate(cores)]


def test_what_a_rank_says_survives_the_store() -> None:
    own = rank_devices.describe(torch.device("cpu"), most_threads=3)
    assert RankDevice.from_json(own.to_json()) == own
    assert own.cores


@pytest.mark.parametrize(
    "ranks",
    [
        on_cpu([0], [0]),
        on_gpus("a", "b", visible="ab"),
        on_gpus("a", "b"),  # each sees its own
        on_gpus("a", "b") + on_gpus("a", "b", host="node2", first=2),
        on_gpus("a"),
    ],
)
def test_one_gpu_per_process_is_right(ranks: list[RankDevice]) -> None:
    assert find_fault(ranks, all_gpus=True) == ""


def test_more_processes_than_gpus_are_refused_with_the_number_to_start() -> None:
    text = find_fault(on_gpus("a", "b", "a", "b", visible="ab"))
    assert "4 processes and 2 GPUs on node1" in text
    assert "ranks 0 and 2" in text
    assert "start 2" in text


def test_gpus_may_be_shared_where_nccl_allows_it() -> None:
    assert why_not_shared((2, 30), {"NCCL_MULTI_RANK_GPU_ENABLE": "1"}) == ""
    assert "NCCL_MULTI_RANK_GPU_ENABLE=1" in why_not_shared((2, 31), {})
    assert "2.28" in why_not_shared((2, 28), {"NCCL_MULTI_RANK_GPU_ENABLE": "1"})
    shared = [dataclasses.replace(each, alone_on="", why_alone="") for each in on_gpus("a", "a")]
    assert find_fault(shared) == ""


def test_idle_gpus_are_refused_only_where_slurm_gave_them() -> None:
    ranks = on_gpus("a", visible="abcd")
    assert find_fault(ranks) == ""
    text = find_fault(ranks, all_gpus=True)
    assert "1 process and 4 GPUs on node1" in text
    assert "--ntasks-per-node=4" in text


def test_a_rank_without_gpu_among_others_is_named() -> None:
    ranks = [*on_gpus("a", "b"), RankDevice(rank=2, host="node2", machine="node2")]
    text = find_fault(ranks)
    assert "ranks 0, 1 on node1 found a GPU" in text
    assert "rank 2 on node2" in text
    assert "--set train.device=cpu" in text


def test_the_fault_of_any_rank_is_known_to_all() -> None:
    sick = RankDevice(rank=1, host="node2", machine="node2", fault="GPU 3 of 4 does not work")
    assert find_fault([*on_gpus("a"), sick]) == "rank 1 on node2: GPU 3 of 4 does not work"
    assert find_fault([dataclasses.replace(sick, rank=0)]) == "GPU 3 of 4 does not work"
    both = find_fault([sick, dataclasses.replace(sick, rank=2, host="node3")])
    assert "also rank 2 on node3" in both


@pytest.mark.parametrize(
    ("ranks", "threads"),
    [
        (on_cpu(range(8)), 8),
        (on_cpu(range(8), range(8)), 4),  # one launcher on all cores of the machine
        (on_cpu(range(4), range(4, 8)), 4),  # SLURM bound each task to its own cores: not divided again
        (on_cpu(range(8)) + on_cpu(range(2), host="node2"), 2),  # the same on every rank
        (on_cpu([0], [0], [0]), 1),
        ([RankDevice(cores=tuple(range(64)), most_threads=4)], 4),  # SLURM does not bind, but gave 4 cores
        ([RankDevice(cores=(0, 1), most_threads=4)], 2),
    ],
)
def test_threads_are_the_cores_that_each_rank_has_for_itself(ranks: list[RankDevice], threads: int) -> None:
    assert threads_for_all(ranks) == threads
