"""NCCL's log, as NCCL 2.27 writes it."""

from __future__ import annotations

import pytest

from kws.doctor import nccl_log

LOG = """node1:86:86 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.0.0.1<0>
node1:86:86 [0] NCCL INFO Assigned NET plugin IB to comm
node1:86:86 [0] NCCL INFO Using network {}
"""


@pytest.mark.parametrize("name", ["IB", "Socket", "AWS Libfabric"])
def test_the_network_is_read_and_the_log_removed(name: str) -> None:
    environ: dict[str, str] = {}
    log = nccl_log.write_log(environ)
    assert log is not None
    assert environ == {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(log)}
    log.write_text(LOG.format(name))
    assert nccl_log.network(log) == name
    assert not log.exists()
    assert nccl_log.network(log) == ""


def test_a_log_that_the_user_asked_for_is_left_alone() -> None:
    assert nccl_log.write_log({"NCCL_DEBUG": "WARN"}) is None
    assert nccl_log.network(None) == ""
