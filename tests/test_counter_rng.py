"""The same key gives the same numbers, in any order and number; another key gives others."""

from __future__ import annotations

import numpy as np
import pytest

from kws import counter_rng


def test_the_numbers_of_a_key_never_change() -> None:
    assert counter_rng.digest("plan", 0, 1) == 17688791572811792333
    assert counter_rng.permutation(8, "plan", 0).tolist() == [5, 1, 4, 3, 0, 6, 2, 7]


def test_parts_of_a_key_differ_by_type_and_position_but_not_by_width() -> None:
    assert counter_rng.digest("a", 7) == counter_rng.digest("a", np.int64(7))
    assert (
        len(
            {
                counter_rng.digest("a", 7),
                counter_rng.digest("a", "7"),
                counter_rng.digest(7, "a"),
                counter_rng.digest("a7"),
            }
        )
        == 4
    )


def test_the_numbers_of_a_counter_do_not_depend_on_the_other_counters() -> None:
    assert counter_rng.uniforms([5, 9], 3, "k")[1].tolist() == counter_rng.uniforms([9], 3, "k")[0].tolist()


def test_counters_share_no_numbers() -> None:
    assert len(np.unique(counter_rng.bits(np.arange(10_000), 3, "k"))) == 30_000


def test_uniforms_are_uniform_in_the_unit_interval() -> None:
    drawn = counter_rng.uniforms(np.arange(50_000), 2, "k").ravel()
    counts = np.histogram(drawn, bins=20, range=(0.0, 1.0))[0]
    assert 0.0 <= drawn.min() < drawn.max() < 1.0
    assert ((counts - 5000) ** 2 / 5000).sum() < 19 + 5 * np.sqrt(38)


def test_a_permutation_has_every_number_once() -> None:
    assert sorted(counter_rng.permutation(1000, "k")) == list(range(1000))
    assert counter_rng.permutation(0, "k").shape == (0,)
    assert counter_rng.permutation(1, "k").tolist() == [0]


def test_permutations_are_those_of_their_keys_end_to_end() -> None:
    sizes, numbers = np.array([5, 0, 1, 300]), np.array([3, 7, 1, 2])
    found = counter_rng.permutations(sizes, counter_rng.digests(numbers, "k", 9))
    wanted = [counter_rng.permutation(int(size), "k", 9, int(n)) for size, n in zip(sizes, numbers, strict=True)]
    assert found.tolist() == np.concatenate(wanted).tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 4097])
def test_random_order_is_the_stable_argsort(count: int) -> None:
    numbers = counter_rng.bits(np.arange(count), 1, "k")[:, 0]
    for values in (numbers, numbers >> np.uint64(40), numbers % np.uint64(3)):  # more and more ties
        assert counter_rng.random_order(values).tolist() == np.argsort(values, kind="stable").tolist()


@pytest.mark.parametrize("end", [5, 1 << 16, (1 << 16) + 1])
def test_stable_order_is_the_stable_argsort(end: int) -> None:
    values = (counter_rng.uniforms(np.arange(999), 1, "k")[:, 0] * end).astype(np.int64)
    values[:2] = end - 1
    assert counter_rng.stable_order(values, end).tolist() == np.argsort(values, kind="stable").tolist()
