"""A torch.profiler trace in figures: time by part of a step, how busy the GPU was, and the operations that took most.

Reads the events of a trace in Chrome's format, as Kineto writes it: `ts` and `dur` in microseconds; category
`user_annotation` for the labels of steps and parts, `cpu_op` for operations on the host, `kernel`, `gpu_memcpy` and
`gpu_memset` for work on a GPU, which shares its `correlation` with the `cuda_runtime` call that launched it.
"""

from __future__ import annotations

import bisect
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kws.run.step_parts import LABELS

Event = Mapping[str, Any]
Row = dict[str, Any]
MOST_OPERATIONS = 25
_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCH = ("cuda_runtime", "cuda_driver")
_PART_OF = {label: part for part, label in LABELS.items()}
_STEP = re.compile(r"step (\d+)")


def summarise_trace(events: Iterable[Event]) -> Row:
    """The figures of a trace, all times in seconds:

    first, last (steps)  seconds  seconds_a_step
    parts: part -> host (time of the training's thread), device (time of the work that was launched there)
    data_wait_share (of the time, on the host)
    device_seconds, front_end_device_share (of device_seconds), gpu_busy_share (of the time in which the GPU did
        anything but wait in NCCL): null without a GPU
    operations, kernels: name, calls, seconds; those with most own time, without the operations inside them
    """
    whole = [event for event in events if event.get("ph") == "X"]
    labels = [event for event in whole if event.get("cat") == "user_annotation"]
    steps = {int(found[1]): event for event in labels if (found := _STEP.fullmatch(event["name"]))}
    if not steps:
        return {}
    begin = min(event["ts"] for event in steps.values())
    end = max(event["ts"] + event["dur"] for event in steps.values())
    thread = steps[min(steps)]["tid"]
    line = _PartLine([e for e in labels if e["name"] in _PART_OF and e["tid"] == thread], begin, end)
    device = [event for event in whole if event.get("cat") in _DEVICE and begin <= event["ts"] < end]
    host, on_device = line.seconds(), _device_seconds(device, whole, line)
    seconds = (end - begin) / 1e6
    return {
        "first": min(steps), "last": max(steps), "seconds": seconds, "seconds_a_step": seconds / len(steps),
        "parts": {
            part: {"host": host.get(part, 0.0), "device": on_device.get(part, 0.0)}
            for part in LABELS if part in host or part in on_device
        },
        "data_wait_share": host.get("data", 0.0) / seconds,
        **_device_figures(device, on_device, begin, end),
        "operations": _own_times([event for event in whole if event.get("cat") == "cpu_op"]),
        "kernels": _largest((event["name"], event["dur"]) for event in device),
    }  # fmt: skip


class _PartLine:
    """Which part each moment of the training's thread belongs to: the innermost label, else `other`. Times in us."""

    def __init__(self, labels: Sequence[Event], begin: float, end: float) -> None:
        self._starts, self._parts, self._end = [begin], ["other"], end
        open_labels: list[tuple[float, str]] = []  # end, part
        for event in sorted(labels, key=lambda event: (event["ts"], -event["dur"])):
            if begin <= event["ts"] < end:
                self._close_until(event["ts"], open_labels)
                open_labels.append((event["ts"] + event["dur"], _PART_OF[event["name"]]))
                self._change(event["ts"], open_labels[-1][1])
        self._close_until(end, open_labels)

    def _close_until(self, time: float, open_labels: list[tuple[float, str]]) -> None:
        while open_labels and open_labels[-1][0] <= time:
            at, _ = open_labels.pop()
            self._change(at, open_labels[-1][1] if open_labels else "other")

    def _change(self, at: float, part: str) -> None:
        self._starts.append(at)
        self._parts.append(part)

    def part_at(self, time: float) -> str:
        """The part at this time."""
        return self._parts[max(0, bisect.bisect_right(self._starts, time) - 1)]

    def seconds(self) -> dict[str, float]:
        """Part -> seconds."""
        found: dict[str, float] = defaultdict(float)
        for part, start, end in zip(self._parts, self._starts, [*self._starts[1:], self._end], strict=True):
            found[part] += max(0.0, end - start) / 1e6
        return dict(found)


def _device_seconds(device: Sequence[Event], whole: Sequence[Event], line: _PartLine) -> dict[str, float]:
    """Part -> seconds of the GPU's work, by the time at which the host launched it: the backward pass is launched by
    autograd's thread, while the training's thread waits inside the part `backward`. NCCL's work is all_reduce: it
    lasts until the slowest rank has joined."""
    launched = {
        event["args"]["correlation"]: event["ts"]
        for event in whole
        if event.get("cat") in _LAUNCH and "correlation" in event.get("args", {})
    }
    found: dict[str, float] = defaultdict(float)
    for event in device:
        at = launched.get(event.get("args", {}).get("correlation"))
        part = "all_reduce" if event["name"].startswith("nccl") else "other" if at is None else line.part_at(at)
        found[part] += event["dur"] / 1e6
    return dict(found)


def _device_figures(device: Sequence[Event], by_part: Mapping[str, float], begin: float, end: float) -> Row:
    names = ("device_seconds", "front_end_device_share", "gpu_busy_share")
    total = sum(by_part.values())
    if total == 0.0:
        return dict.fromkeys(names)
    busy, reached = 0.0, begin
    for event in sorted((event for event in device if not event["name"].startswith("nccl")), key=lambda e: e["ts"]):
        until = min(event["ts"] + event["dur"], end)
        busy += max(0.0, until - max(reached, event["ts"]))
        reached = max(reached, until)
    return dict(zip(names, (total, by_part.get("front_end", 0.0) / total, busy / (end - begin)), strict=True))


def _own_times(operations: Sequence[Event]) -> list[Row]:
    """Operations by their own time: without that of the operations which they call, in the same thread."""
    by_thread: dict[Any, list[Event]] = defaultdict(list)
    for event in operations:
        by_thread[event["tid"]].append(event)
    own: list[tuple[str, float]] = []
    for events in by_thread.values():
        open_operations: list[list[Any]] = []  # end, name, own time
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            while open_operations and open_operations[-1][0] <= event["ts"]:
                own.append(tuple(open_operations.pop()[1:]))
            if open_operations:
                open_operations[-1][2] -= event["dur"]
            open_operations.append([event["ts"] + event["dur"], event["name"], event["dur"]])
        own += [(name, time) for _, name, time in open_operations]
    return _largest(own)


def _largest(times: Iterable[tuple[str, float]]) -> list[Row]:
    calls, spent = defaultdict[str, int](int), defaultdict[str, float](float)
    for name, microseconds in times:
        calls[name] += 1
        spent[name] += microseconds
    names = sorted(spent, key=lambda name: -spent[name])[:MOST_OPERATIONS]
    return [{"name": name, "calls": calls[name], "seconds": max(0.0, spent[name]) / 1e6} for name in names]


def summary_text(summary: Row, where: str) -> str:
    """The figures as tables for people. `where`: rank, host and device."""
    heading = (
        f"steps {summary['first']} to {summary['last']} of {where}: {1000 * summary['seconds_a_step']:.1f} ms a step\n"
    )
    has_device = summary["device_seconds"] is not None
    if has_device:
        heading += (
            f"GPU busy {summary['gpu_busy_share']:.1%} of the time; front end {summary['front_end_device_share']:.1%} "
            f"of its work; waiting for data {summary['data_wait_share']:.1%} of the host's time\n"
        )
    parts = [(LABELS[part], "", times["host"], times["device"]) for part, times in summary["parts"].items()]
    blocks = [_table(("part of a step", "", "host ms", "of it", "GPU ms", "of it"), parts, summary, has_device)]
    for key, name in (("operations", "operation, own time on the host"), ("kernels", "work of the GPU")):
        rows = [(row["name"][:70], f"{row['calls']:,}", row["seconds"], None) for row in summary[key]]
        if rows:
            blocks.append(_table((name, "calls", "ms", "of it"), rows, summary, False))
    return "\n".join([heading, *blocks])


def _table(
    names: Sequence[str], rows: Iterable[tuple[str, str, float, float | None]], summary: Row, has_device: bool
) -> str:
    """Columns of text; a row has a name, calls, and seconds on host and GPU. Shares are those of the whole time."""
    width = len(names) if has_device else 4
    cells = [list(names[:width])]
    for name, calls, host, device in rows:
        shown = [host] + ([device or 0.0] if has_device else [])
        times = [
            text for seconds in shown for text in (f"{1000 * seconds:,.1f}", f"{seconds / summary['seconds']:.1%}")
        ]
        cells.append([name, calls, *times])
    widths = [max(len(row[column]) for row in cells) for column in range(width)]
    return "".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True))]
        )
        + "\n"
        for row in cells
    )
