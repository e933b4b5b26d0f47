"""Check 6: two ranks on one GPU, with gloo: DDP, the exact tree, a step with fewer clips than slots, a killed rank."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping

from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.runs import FULL_FLOAT32, Command, Ended, Run, succeeded

GLOO = (sys.executable, "-m", "benchmarks.gpu_checks.kws_over_gloo")
NAMED_WITHIN_S = 20.0
SETTINGS = {
    "train__epochs": 2, "train__lr": 0.001, "data__sampling": "natural", "data__epoch_clips": 64 * 5 + 3,
    "train__deterministic": "true",
}  # fmt: skip
"""3 clips more than whole steps: the last step of an epoch leaves a slot empty."""


def check(context: Context) -> Finding:
    """Both reductions against one rank; then a rank is killed in the middle of a long run."""
    finding = Finding()
    with finding.part("fast"):
        _compare(context, finding, "fast", 1e-5, FULL_FLOAT32)
    with finding.part("exact"):
        _compare(context, finding, "exact", 0.0, {})
    with finding.part("killed rank"):
        _kill_one(context, finding)
    return finding


def _compare(context: Context, finding: Finding, reduction: str, tolerance: float, env: Mapping[str, str]) -> None:
    """Losses of two ranks against those of one."""
    settings = {**SETTINGS, "train__reduction": reduction}
    alone, pair = (Run(context, f"{reduction}-{name}", **settings) for name in ("one-rank", "two-ranks"))
    for command in [alone.start(env=env), *_start(pair, env)]:
        succeeded(command.finish(context.seconds_left))
    apart = max(abs(a - b) for a, b in zip(alone.losses(), pair.losses(), strict=True))
    finding.add(f"{reduction}: {len(pair.losses())} steps, losses to {apart:.1e}", **{f"{reduction}_apart": apart})
    finding.expect(apart <= tolerance, f"{reduction}: losses differ by {apart:.1e}")


def _start(run: Run, env: Mapping[str, str] | None = None) -> list[Command]:
    """Two ranks without a launcher, which would end the other one itself: as srun starts them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= dict(env or {})
    return [run.start(GLOO, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]


def _kill_one(context: Context, finding: Finding) -> None:
    run = Run(context, "killed-rank", train__epochs=2000)
    main, lost = _start(run)
    main.wait_until(lambda: run.steps_done() >= 3, context.seconds_left)
    lost.kill()
    began = time.monotonic()
    ended: Ended = main.finish(min(60.0, context.seconds_left))
    seconds, name = time.monotonic() - began, f"rank 1 on {socket.gethostname()} (process {lost.process.pid})"
    named = any(name in line for line in ended.lines)
    finding.add(f"a killed rank: exit code {ended.code} after {seconds:.1f} s", killed_rank_s=seconds)
    finding.expect(named and ended.code == 1, f"a killed rank is not named: exit code {ended.code}, {ended.lines}")
    finding.expect(seconds <= NAMED_WITHIN_S, f"a killed rank is named only after {seconds:.0f} s")
