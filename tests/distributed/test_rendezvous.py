from __future__ import annotations

import os
from pathlib import Path

import pytest

from kws.distributed.rendezvous import avoid_missing_transports, connection_errors, leave_faults_to_watchdog
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
    ("card", "driver", "expected"),
    [
        ("NVIDIA GeForce RTX 4090", "535.183.01", {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}),
        ("NVIDIA GeForce RTX 4090", "560.35.03", {}),
        ("NVIDIA H100", "535.183.01", {}),
    ],
)
def test_cards_without_peer_to_peer_are_used_without_it(
    card: str, driver: str, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f"#!/bin/sh\ncase $1 in *count*) printf '2, {card}\\n2, {card}\\n' ;; *) echo {driver} ;; esac\n"
    (tmp_path / "nvidia-smi").write_text(listed)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environ: dict[str, str] = {}
    avoid_missing_transports(environ)
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
