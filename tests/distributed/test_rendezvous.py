from __future__ import annotations

import pytest

from kws.distributed.rendezvous import connection_errors, leave_faults_to_watchdog
from kws.errors import RankError

NCCL = """NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
socketStartConnect: Connect to 10.0.0.7<40961> failed : No route to host"""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0"}),
        ({"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}, {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}),
        ({"NCCL_ASYNC_ERROR_HANDLING": "1"}, {"NCCL_ASYNC_ERROR_HANDLING": "1"}),
    ],
)
def test_nccl_leaves_faults_to_the_watchdog_unless_the_user_decides(
    environ: dict[str, str], expected: dict[str, str]
) -> None:
    leave_faults_to_watchdog(environ)
    assert environ == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (NCCL, ("No route to host", "NCCL_SOCKET_IFNAME")),
        ("[c10d] The client socket has timed out after 60000ms while trying to connect to (node1, 20001).", ("node1",)),
        ("Unable to find address for: ib7", ("ib7", "GLOO_SOCKET_IFNAME")),
        ("The server socket has failed to listen on any local network address. port: 29500, EADDRINUSE", ("29500",)),
    ],
)
def test_an_error_of_connecting_is_one_line(text: str, named: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(RankError) as caught, connection_errors():
        raise RuntimeError(text)
    assert "\n" not in str(caught.value)
    for each in named:
        assert each in str(caught.value)
