"""Where the time of this rank goes: seconds by part of a step (kws/run/step_parts.py).

    with times.part("forward"):   a mark at each change of part; the time between two marks belongs to one part, so the
        ...                       parts add up to the whole time by construction
    times.take() -> seconds by part since the call before

On a CPU a mark reads the clock. On a GPU, which computes later than the host launches, a mark is a CUDA event in the
stream of the training: the parts are then what the GPU was waiting for or busy with, so a wait for data that the GPU
does not notice counts nothing. Events are read once the GPU has passed them, a step later: nothing waits for them.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from kws.run.step_parts import LABELS, PARTS


class Marks(Protocol):
    """Divides the time among parts."""

    seconds: dict[str, float]
    """Part -> seconds so far."""

    def mark(self, part: str) -> None:
        """The time since the mark before belongs to `part`."""

    def collect(self) -> None:
        """Adds to `seconds` what is known by now, without waiting."""


class HostMarks:
    """Marks by the host's clock, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._clock, self._last = clock, clock()

    def mark(self, part: str) -> None:
        """Adds the time since the mark before to `part`."""
        now = self._clock()
        self.seconds[part] += now - self._last
        self._last = now

    def collect(self) -> None:
        """Nothing is left to add."""


class CudaMarks:
    """Marks by events in one CUDA stream. `make_event` makes an event with timing, `stream` is the training's."""

    def __init__(self, make_event: Callable[[], Any], stream: Any) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._make_event, self._stream = make_event, stream
        self._free: list[Any] = []
        self._pending: deque[tuple[str, Any]] = deque()
        self._last = make_event()
        self._last.record(stream)

    @classmethod
    def on(cls, device: torch.device) -> CudaMarks:
        """Marks in the device's present stream. Always in the same one: times between two streams are no part."""
        timed = functools.partial(torch.cuda.Event, enable_timing=True)
        return cls(timed, torch.cuda.current_stream(device))

    def mark(self, part: str) -> None:
        """Records an event; its time is known once the GPU has passed it."""
        event = self._free.pop() if self._free else self._make_event()
        event.record(self._stream)
        self._pending.append((part, event))

    def collect(self) -> None:
        """Reads the events that the GPU has passed."""
        while self._pending and self._pending[0][1].query():
            part, event = self._pending.popleft()
            self.seconds[part] += self._last.elapsed_time(event) / 1000.0
            self._free.append(self._last)
            self._last = event


class StepTimes:
    """The times of this rank. A part inside another interrupts it; outside all of them the time counts as `other`."""

    def __init__(self, marks: Marks | None = None) -> None:
        self._marks: Marks = marks or HostMarks()
        self._parts = ["other"]
        self._taken = dict.fromkeys(PARTS, 0.0)
        self._contexts = {part: _Part(self, part) for part in PARTS}
        self._labels: list[Any] = []
        self._thread = threading.get_ident()
        self.profiling = False
        """Whether parts are labelled for torch.profiler."""

    @classmethod
    def on(cls, device: torch.device) -> StepTimes:
        """Times on a device."""
        return cls(CudaMarks.on(device) if device.type == "cuda" else HostMarks())

    def part(self, name: str) -> AbstractContextManager[None]:
        """The time inside belongs to this part, except what an inner part takes."""
        return self._contexts[name]

    def take(self) -> dict[str, float]:
        """Seconds by part since the call before, or since the start. On a GPU: of the work that it has finished."""
        self._marks.mark(self._parts[-1])
        self._marks.collect()
        now = dict(self._marks.seconds)
        found = {part: now[part] - self._taken[part] for part in PARTS}
        self._taken = now
        return found

    def all_reduce_follows(self, loss: Tensor) -> None:
        """To be called before the backward pass of `loss` in which ranks wait for one another: once this rank's own
        gradients are computed, the rest of the part that is then open belongs to all_reduce.

        Callbacks queued in a backward pass run at its end, in order: this one is queued at its begin, and DDP's, which
        waits for the other ranks, with the last gradient (torch/csrc/distributed/c10d/reducer.cpp,
        mark_variable_ready). DeepSpeed reduces after the backward pass.
        """
        queue = torch.autograd.Variable._execution_engine.queue_callback
        loss.register_hook(lambda _: queue(self._begin_all_reduce))  # type: ignore[no-untyped-call]

    def _begin_all_reduce(self) -> None:
        self._marks.mark(self._parts[-1])
        self._parts[-1] = "all_reduce"
        # On a GPU this runs in autograd's thread, while the training's thread waits in backward(): a label would be
        # of the wrong thread, and the trace has NCCL's own.
        if self._labels and threading.get_ident() == self._thread:
            self._close_label()
            self._open_label("all_reduce")

    def _enter(self, name: str) -> None:
        self._marks.mark(self._parts[-1])
        self._parts.append(name)
        if self.profiling:
            self._open_label(name)

    def _leave(self) -> None:
        self._marks.mark(self._parts.pop())
        if self._labels and len(self._labels) == len(self._parts):
            self._close_label()
        if len(self._parts) == 1:
            self._marks.collect()

    def _open_label(self, name: str) -> None:
        label = torch.profiler.record_function(LABELS[name])
        label.__enter__()  # type: ignore[no-untyped-call]
        self._labels.append(label)

    def _close_label(self) -> None:
        self._labels.pop().__exit__(None, None, None)


class _Part:
    """Context manager that can be entered again and again: making one a time would cost more than the rest."""

    def __init__(self, times: StepTimes, name: str) -> None:
        self._times, self._name = times, name

    def __enter__(self) -> None:
        self._times._enter(self._name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._times._leave()
