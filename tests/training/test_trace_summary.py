"""Figures of traces made by hand, as Kineto writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kws.training.trace_summary import summarise_trace, summary_text

Event = dict[str, Any]
MAIN, AUTOGRAD = 1, 2


def span(cat: str, name: str, ts: float, dur: float, tid: int = MAIN, **args: object) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}


def label(name: str, ts: float, dur: float) -> Event:
    return span("user_annotation", name, ts, dur)


STEPS = [
    label("step 7", 1000, 400), label("step 8", 1400, 600), label("data", 1000, 100), label("front end", 1100, 50),
    label("backward", 1200, 150), label("update", 1400, 500), label("data", 1500, 100), label("foreign", 1900, 90),
    {"ph": "i", "name": "Iteration Start", "ts": 0}, span("Trace", "PyTorch Profiler", 0, 3000),
]  # fmt: skip


def test_host_time_by_part_adds_up_and_an_inner_label_counts() -> None:
    found = summarise_trace(STEPS)
    host = {part: times["host"] for part, times in found["parts"].items()}
    assert host == pytest.approx(
        {"data": 200e-6, "front_end": 50e-6, "backward": 150e-6, "update": 400e-6, "other": 200e-6}
    )
    assert sum(host.values()) == pytest.approx(found["seconds"]) == pytest.approx(1e-3)
    assert (found["first"], found["last"]) == (7, 8)
    assert found["seconds_a_step"] == pytest.approx(0.5e-3)
    assert found["data_wait_share"] == pytest.approx(0.2)
    assert found["gpu_busy_share"] is None


def test_work_of_a_gpu_belongs_to_the_part_that_launched_it() -> None:
    launches = [
        span("cuda_runtime", "cudaLaunchKernel", 1110, 5, correlation=1),
        span("cuda_runtime", "cudaLaunchKernel", 1250, 5, AUTOGRAD, correlation=2),
        span("cuda_driver", "cuLaunchKernel", 1300, 5, AUTOGRAD, correlation=3),
        span("cuda_runtime", "cudaMemcpyAsync", 1550, 5, correlation=4),
    ]
    work = [
        span("kernel", "fft", 1300, 100, 9, correlation=1),
        span("kernel", "conv", 1350, 300, 9, correlation=2),  # overlaps with the first
        span("kernel", "ncclDevKernel_AllReduce", 1700, 100, 10, correlation=3),
        span("gpu_memcpy", "Memcpy HtoD", 1900, 100, 9, correlation=4),
        span("kernel", "graph", 1990, 500, 9),  # launched by an unknown call, ends after the last step
        span("gpu_user_annotation", "backward", 1300, 500, 9),
    ]
    found = summarise_trace(STEPS + launches + work)
    device = {part: times["device"] for part, times in found["parts"].items() if times["device"]}
    assert device == pytest.approx(
        {"front_end": 100e-6, "backward": 300e-6, "all_reduce": 100e-6, "data": 100e-6, "other": 500e-6}
    )
    assert found["front_end_device_share"] == pytest.approx(1 / 11)
    assert found["gpu_busy_share"] == pytest.approx((350 + 100) / 1000)
    assert [row["name"] for row in found["kernels"]][:2] == ["graph", "conv"]


def test_an_operation_has_its_own_time_without_what_it_calls() -> None:
    operations = [
        span("cpu_op", "conv", 1100, 80), span("cpu_op", "copy", 1110, 20), span("cpu_op", "copy", 1140, 10),
        span("cpu_op", "copy", 1120, 70, AUTOGRAD),
    ]  # fmt: skip
    found = {row["name"]: row for row in summarise_trace(STEPS + operations)["operations"]}
    assert found["conv"]["seconds"] == pytest.approx(50e-6)
    assert (found["copy"]["calls"], found["copy"]["seconds"]) == (3, pytest.approx(100e-6))


@pytest.mark.parametrize("gpu", [False, True])
def test_the_table_names_parts_and_operations(gpu: bool) -> None:
    events = [*STEPS, span("cpu_op", "aten::mm", 1200, 100)] + ([span("kernel", "gemm", 1210, 90, 9)] if gpu else [])
    found = json.loads(json.dumps(summarise_trace(events)))
    text = summary_text(found, "rank 3 on node1, cuda:0")
    for wanted in ("steps 7 to 8", "rank 3 on node1", "front end", "20.0%", "aten::mm"):
        assert wanted in text
    assert ("gemm" in text) == ("GPU busy" in text) == gpu


def test_a_trace_without_steps_has_no_figures() -> None:
    assert summarise_trace([label("data", 0, 1)]) == {}
