"""Random numbers that hang on numbers: the same key gives the same values, in any process, in any order.

Keys are tuples of ints and strings, such as (seed, epoch, "window", lane, 3). Nothing here has a state, so no
other part of the program can disturb what is drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Key = int | str
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def digest(*key: Key) -> int:
    """The key as one 64-bit number. 1 and "1" are different parts; numpy's integers are as Python's."""
    text = "\x1f".join(f"s{part}" if isinstance(part, str) else f"i{int(part)}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(*key: Key) -> np.random.Generator:
    """A numpy generator of the key's own."""
    return np.random.Generator(np.random.PCG64(digest(*key)))


def permutation(n: int, *key: Key) -> npt.NDArray[np.int64]:
    """0..n-1 in the key's order, (n,). Sorted by 64-bit numbers, so that it does not hang on numpy's shuffle."""
    return np.argsort(bits(np.arange(n), 1, *key)[:, 0], kind="stable").astype(np.int64)


def bits(counters: npt.ArrayLike, count: int, *key: Key) -> npt.NDArray[np.uint64]:
    """`count` 64-bit numbers for each counter (B,) -> (B, count): SplitMix64, read at any place.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    place = np.arange(1, count + 1, dtype=np.uint64)
    rows = np.asarray(counters, dtype=np.uint64)[:, None] * np.uint64(count) + place
    z: npt.NDArray[np.uint64] = np.uint64(digest(*key)) + rows * _GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniforms(counters: npt.ArrayLike, count: int, *key: Key) -> npt.NDArray[np.float64]:
    """`count` numbers in [0, 1) for each counter (B,) -> (B, count), with 53 random bits each."""
    return (bits(counters, count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
