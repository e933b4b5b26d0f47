"""Check 3: how often the host waits for the device: never in a slot, once in a step.

On a GPU torch raises an error at an operation that would wait, and the profiler counts the waits of the CUDA runtime.
On a CPU the values that the host reads out of tensors are counted, which is where it would wait for a GPU.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.gpu_checks.check import Context, Finding
from benchmarks.gpu_checks.steps import Steps, make_config, one_rank
from kws.config import preset

WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "cudaMemcpy"}
COUNTED_STEPS = 3


def check(context: Context) -> Finding:
    """Both augmentation chains, with fast and exact reduction."""
    finding = Finding()
    with one_rank(context) as ranks:
        for chain in ("classic", "modern"):
            for reduction in ("fast", "exact")[: context.sized(2, 1)]:
                frontend = preset(chain, features="mel32", mixup_probability=0.5)
                config = make_config(
                    context,
                    "tc_resnet8" if context.quick else "resnet20",
                    frontend,
                    reduction=reduction,
                    optimizer="sgd",
                )
                steps = Steps(config, ranks)
                for _ in range(context.sized(4, 1)):
                    steps.step()
                name = f"{chain}, {reduction}"
                with finding.part(name):
                    (_on_gpu if context.on_gpu else _on_cpu)(steps, name, finding)
    return finding


def _on_gpu(steps: Steps, name: str, finding: Finding) -> None:
    places = _places(steps)
    finding.expect(not places, f"{name}: waits at {', '.join(f'{place} ({n} x)' for place, n in places.items())}")
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = _profiled(steps)
    a_step = sum(waits.values()) / COUNTED_STEPS
    finding.add(f"{name}: {a_step:.1f} waits a step, none in a slot", **{f"waits {name}": dict(waits)})
    finding.expect(a_step <= 1.0, f"{name}: {a_step:.1f} waits a step ({dict(waits)})")


def _places(steps: Steps) -> Counter[str]:
    """Lines of Python at which torch warns that the host waits, within one step."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        steps.step()
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{one.filename}:{one.lineno}" for one in seen if "called a synchronizing" in str(one.message))


def _profiled(steps: Steps) -> Counter[str]:
    """Waits of the CUDA runtime within COUNTED_STEPS steps."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(COUNTED_STEPS):
            with record_function("kws step"):
                steps.step()
    events = list(profiler.events())
    ranges = [(event.time_range.start, event.time_range.end) for event in events if event.name == "kws step"]
    inside = (e.name for e in events if any(start <= e.time_range.start <= end for start, end in ranges))
    return Counter(name for name in inside if name in WAITS)


class _ReadValues(TorchDispatchMode):
    """Counts how often Python takes a value out of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


def _on_cpu(steps: Steps, name: str, finding: Finding) -> None:
    with _ReadValues() as reads:
        steps.step()
    finding.add(f"{name}: the host reads {reads.count} values in a step", **{f"reads {name}": reads.count})
    finding.expect(reads.count == 0, f"{name}: the host reads {reads.count} values in a step, apart from its sums")
