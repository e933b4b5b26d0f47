"""Counter-based random numbers: the values depend only on the key, not on the process or on what was drawn before.

A key is a sequence of ints and strings, such as ("plan", seed, epoch, "window", lane, 3). There is no generator state,
so resuming needs none, and no other part of the program can change what is drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Key = int | str
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def digest(*key: Key) -> int:
    """Hashes a key to a 64-bit number. 1 and "1" differ; numpy integers count as Python's."""
    text = "\x1f".join(f"s{part}" if isinstance(part, str) else f"i{int(part)}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def digests(numbers: npt.NDArray[np.int64], *key: Key) -> npt.NDArray[np.uint64]:
    """Returns digest(*key, number) for each number, (n,)."""
    prefix = "".join(f"s{part}\x1f" if isinstance(part, str) else f"i{int(part)}\x1f" for part in key) + "i"
    hashes = [hashlib.blake2b(f"{prefix}{number}".encode(), digest_size=8).digest() for number in numbers.tolist()]
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)


def generator(*key: Key) -> np.random.Generator:
    """Returns a numpy generator seeded with the key, for distributions that have no counter-based form here."""
    return np.random.Generator(np.random.PCG64(digest(*key)))


def permutation(n: int, *key: Key) -> npt.NDArray[np.int64]:
    """Returns 0..n-1 in random order, (n,).

    An argsort of 64-bit random numbers, because numpy's shuffle may change between versions.
    """
    return random_order(bits(np.arange(n), 1, *key)[:, 0])


def permutations(sizes: npt.NDArray[np.int64], seeds: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Returns a permutation of each size (n,), end to end: that of permutation(size, *key), where seed = digest(*key).

    Many small ones take a twentieth of the time that they take one by one.
    """
    group = np.repeat(np.arange(len(sizes)), sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    counters = np.arange(len(group)) - start
    numbers = _mix(np.repeat(seeds, sizes) + (counters + 1).astype(np.uint64) * _GAMMA)
    order = random_order(numbers)
    return order[stable_order(group[order], len(sizes))] - start


def random_order(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Returns the stable argsort of random 64-bit numbers (n,), in half its time.

    Replaces the low bits of the numbers by their places and sorts; if two numbers have equal high bits, sorts again.
    """
    low = np.uint64((1 << max(1, len(numbers) - 1).bit_length()) - 1)
    ordered = np.sort((numbers & ~low) | np.arange(len(numbers), dtype=np.uint64))
    if not (ordered[1:] ^ ordered[:-1] > low).all():
        return np.argsort(numbers, kind="stable")
    return (ordered & low).astype(np.int64)


def stable_order(values: npt.NDArray[np.int64], end: int) -> npt.NDArray[np.int64]:
    """Returns the stable argsort of whole numbers 0..end-1, (n,); numpy sorts 16 bits by radix, ten times as fast."""
    return np.argsort(values.astype(np.uint16) if end <= 1 << 16 else values, kind="stable")


def bits(counters: npt.ArrayLike, count: int, *key: Key) -> npt.NDArray[np.uint64]:
    """Returns `count` random 64-bit numbers for each counter: counters (B,) -> (B, count).

    SplitMix64 evaluated at any position of its sequence. Source: Steele, Lea and Flood, "Fast splittable pseudorandom
    number generators", OOPSLA 2014.
    """
    offsets = np.arange(1, count + 1, dtype=np.uint64)
    rows = np.asarray(counters, dtype=np.uint64)[:, None] * np.uint64(count) + offsets
    return _mix(np.uint64(digest(*key)) + rows * _GAMMA)


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of SplitMix64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniforms(counters: npt.ArrayLike, count: int, *key: Key) -> npt.NDArray[np.float64]:
    """Returns `count` uniform numbers in [0, 1), of 53 random bits each, for each counter: (B,) -> (B, count)."""
    return (bits(counters, count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
