"""Check 14: torch.compile: how many graphs, how long, and whether the losses stay those of the eager network."""

from __future__ import annotations

import time

import torch

from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.steps import Steps, make_config, one_rank
from kws.distributed.ranks import Ranks

MOST_GRAPHS, WITHIN = 6, 1e-3


def check(context: Context) -> Finding:
    """Two kinds of small networks without dropout, whose random numbers torch.compile draws in its own way."""
    finding = Finding()
    with one_rank(context) as ranks:
        for name in ("resnet20", "matchboxnet_3x2x64")[: context.sized(2, 1)]:
            if context.seconds_left > 30.0:
                with finding.part(name):
                    _compare(context, ranks, "ds_cnn_s" if context.quick else name, finding)
    return finding


def _compare(context: Context, ranks: Ranks, name: str, finding: Finding) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    began = time.perf_counter()
    eager, compiled = (_losses(context, ranks, name, compile=value) for value in (False, True))
    seconds = time.perf_counter() - began
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    apart = max(abs(a - b) / abs(a) for a, b in zip(eager, compiled, strict=True))
    figures = {"graphs": graphs, "seconds": seconds, "losses_apart": apart}
    finding.add(f"{name}: {graphs} graphs, {seconds:.0f} s, losses to {apart:.1e}", **{name: figures})
    finding.expect(0 < graphs <= MOST_GRAPHS, f"{name}: {graphs} graphs")
    finding.expect(apart <= WITHIN, f"{name}: losses differ by {apart:.1e}")


def _losses(context: Context, ranks: Ranks, name: str, **train: bool) -> list[float]:
    """Mean losses of a few steps, at a learning rate at which they stay comparable."""
    steps = Steps(make_config(context, name, lr=1e-4, **train), ranks)
    return [(result := steps.step()).loss / result.clips for _ in range(4)]
