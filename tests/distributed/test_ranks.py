import errno
import os

import pytest
import torch

from kws.distributed.ranks import Ranks
from kws.errors import RankError, UsageError


@pytest.fixture
def single() -> Ranks:
    """A single process; none of these methods uses its accelerator."""
    return Ranks(0, 1, torch.device("cpu"), 1, None)  # type: ignore[arg-type]


def refuse() -> None:
    raise UsageError("disk: full")


def test_collectives_of_a_single_process_return_its_value(single: Ranks) -> None:
    assert single.is_main
    assert single.gather("mine") == ["mine"]
    assert single.on_main(lambda: 3) == single.on_all(lambda: 3) == 3
    assert single.node_ranks() == [0]
    assert single.sum(torch.tensor([2.0])).item() == 2.0
    single.barrier()
    assert single.table(8)[0]["slots"] == "0-7"


def test_a_usage_error_of_rank_0_is_raised(single: Ranks) -> None:
    for run in (single.on_main, single.on_all):
        with pytest.raises(UsageError, match="disk: full"):
            run(refuse)


def test_a_full_disk_on_rank_0_is_a_usage_error_and_other_os_errors_are_not(single: Ranks) -> None:
    def write(number: int) -> None:
        raise OSError(number, os.strerror(number), "RUN/status.json")

    with pytest.raises(UsageError, match=r"RUN/status\.json"):
        single.on_main(lambda: write(errno.ENOSPC))
    with pytest.raises(OSError, match="Invalid argument"):
        single.on_main(lambda: write(errno.EINVAL))


def test_memory_that_is_used_up_is_a_usage_error_and_a_bug_is_not(single: Ranks) -> None:
    def fail(error: Exception) -> None:
        raise error

    for run in (single.on_main, single.on_all):
        with pytest.raises(UsageError, match=r"train\.micro_batch"):
            run(lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")))
        with pytest.raises(RuntimeError, match="a bug"):
            run(lambda: fail(RuntimeError("a bug")))


def test_a_local_usage_error_is_printed_by_its_own_rank(single: Ranks) -> None:
    with pytest.raises(RankError, match="disk: full"), single.local_errors():
        refuse()
