"""Figures worked out by hand: a ring of 4 ranks moves 1.5 times the bytes over each link."""

from __future__ import annotations

import pytest

from kws.doctor.scaling import Link, Work


def test_a_measured_ring_predicts_its_own_time() -> None:
    link = Link.measured(4, size=10**8, seconds=0.151, small_s=0.001)
    assert link.bandwidth == pytest.approx(1e9)
    assert link.all_reduce_s(4, 10**8) == pytest.approx(0.151)


def test_the_number_of_ranks_from_which_all_reduce_takes_a_tenth() -> None:
    link = Link(bandwidth=1e9, latency_s=0.0)
    work = Work(slots=8, slot_s=0.1, update_s=0.0, gradient_bytes=10**7)
    # Seconds of all-reduce and of a step: 2 ranks 0.010 of 0.4, 4 ranks 0.015 of 0.2, 8 ranks 0.0175 of 0.1.
    assert work.world_sizes == [1, 2, 4, 8]
    assert work.too_many(link) == 8
    assert Work(slots=8, slot_s=0.1, update_s=0.0, gradient_bytes=10**6).too_many(link) is None
    assert Work(slots=1, slot_s=0.1, update_s=0.0, gradient_bytes=10**9).too_many(link) is None


def test_the_bandwidth_that_a_number_of_ranks_needs_makes_all_reduce_a_tenth() -> None:
    work = Work(slots=8, slot_s=0.1, update_s=0.0, gradient_bytes=10**7)
    link = Link(work.bandwidth_for(8), latency_s=0.0)
    assert link.all_reduce_s(8, work.gradient_bytes) == pytest.approx(0.1 * work.step_s(8))
