"""Parts add up to the whole time, with a clock and with CUDA events made by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.run.step_parts import PARTS
from kws.training.step_times import CudaMarks, HostMarks, StepTimes


class Clock:
    """Seconds that the test lets pass."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def used(seconds: dict[str, float]) -> dict[str, float]:
    return {part: value for part, value in seconds.items() if value}


def test_each_part_has_its_time_and_the_rest_is_other() -> None:
    clock = Clock()
    times = StepTimes(HostMarks(clock))
    for seconds in (1.0, 2.0):
        clock.now += 0.25
        with times.part("data"):
            clock.now += seconds
        with times.part("forward"):
            clock.now += 4.0
    assert used(times.take()) == {"data": 3.0, "forward": 8.0, "other": 0.5}
    assert used(times.take()) == {}


def test_a_part_inside_another_interrupts_it() -> None:
    clock = Clock()
    times = StepTimes(HostMarks(clock))
    with times.part("update"):
        clock.now += 1.0
        with times.part("data"):
            clock.now += 2.0
        clock.now += 4.0
    assert used(times.take()) == {"update": 5.0, "data": 2.0}


def test_a_part_that_raises_ends() -> None:
    clock = Clock()
    times = StepTimes(HostMarks(clock))

    def fail() -> None:
        with times.part("forward"):
            clock.now += 1.0
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    clock.now += 2.0
    assert used(times.take()) == {"forward": 1.0, "other": 2.0}


def test_what_follows_the_own_gradients_in_a_backward_pass_is_all_reduce() -> None:
    clock = Clock()
    times = StepTimes(HostMarks(clock))
    weight = torch.ones(3, requires_grad=True)

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            clock.now += 2.0
            # As DDP does with its last bucket: called after the callback that was queued first.
            queue = torch.autograd.Variable._execution_engine.queue_callback
            queue(lambda: setattr(clock, "now", clock.now + 4.0))
            return gradient

    loss = Slow.apply(weight).sum()  # type: ignore[no-untyped-call]
    with times.part("backward"):
        times.all_reduce_follows(loss)
        loss.backward()
        clock.now += 1.0
    clock.now += 8.0
    assert used(times.take()) == {"backward": 2.0, "all_reduce": 5.0, "other": 8.0}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(PARTS), st.integers(0, 50), st.integers(0, 2)), max_size=30))
def test_parts_add_up_to_the_whole_time(actions: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    times, total = StepTimes(HostMarks(clock)), 0.0
    for part, seconds, depth in actions:
        with times.part(part):
            clock.now += seconds
            for _ in range(depth):
                with times.part("data"):
                    clock.now += 1
        clock.now += depth
        total += sum(times.take().values()) if depth == 2 else 0.0
    assert total + sum(times.take().values()) == clock.now - 100.0


# --- CUDA events -----------------------------------------------------------------------------------------------


class Stream:
    """A device that runs behind the host: an event's time is known once the test lets the device reach it."""

    def __init__(self) -> None:
        self.submitted = self.finished = 0.0


class Event:
    """As torch.cuda.Event with timing; fails where it is read before its time."""

    def record(self, stream: Stream) -> None:
        self.at, self.stream = stream.submitted, stream

    def query(self) -> bool:
        return self.stream.finished >= self.at

    def elapsed_time(self, later: Event) -> float:
        assert self.query()
        assert later.query(), "read before the device has passed it"
        return 1000.0 * (later.at - self.at)


def test_on_a_gpu_nothing_waits_and_a_part_counts_once_the_device_has_finished_it() -> None:
    stream, made = Stream(), list[Event]()

    def make() -> Event:
        made.append(Event())
        return made[-1]

    times = StepTimes(CudaMarks(make, stream))
    for step in range(50):
        with times.part("data"):
            pass  # the host waits, while the device still computes
        with times.part("forward"):
            stream.submitted += 3.0
        with times.part("update"):
            stream.submitted += 1.0
        found = used(times.take())
        assert found == ({"forward": 3.0, "update": 1.0} if step else {}), "the step before: this one is not finished"
        stream.finished = stream.submitted
    assert used(times.take()) == {"forward": 3.0, "update": 1.0}
    assert len(made) < 30, "events are used again"
