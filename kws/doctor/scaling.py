"""All-reduce against a step: its share at a number of ranks, and from which number on it takes too long.

step of W ranks        slots / W x seconds of a slot + update
all-reduce of W ranks  2 (W - 1) / W x bytes / bandwidth + 2 (W - 1) x latency of a message, around a ring

Without the overlap of DDP's buckets with the backward pass, so the share is the most that it can be.
Source of the ring's cost: Patarasu and Yuan, "Bandwidth optimal all-reduce algorithms" (2009); nccl-tests' "bus
bandwidth" is the same factor.
"""

from __future__ import annotations

import dataclasses

SHARE = 0.1
"""The share of a step that all-reduce should stay below."""


@dataclasses.dataclass(frozen=True)
class Link:
    """What all-reduces of a group of ranks measured. bandwidth: bytes a second over each rank's link. latency_s: of one
    of the messages around the ring."""

    bandwidth: float
    latency_s: float

    @classmethod
    def measured(cls, ranks: int, size: int, seconds: float, small_s: float) -> Link:
        """From an all-reduce of `size` bytes and one of a few bytes among `ranks` ranks."""
        moving_s = max(seconds - small_s, seconds / 10)
        return cls(2 * (ranks - 1) / ranks * size / moving_s, small_s / (2 * (ranks - 1)))

    def all_reduce_s(self, ranks: int, size: int) -> float:
        """Seconds of an all-reduce of `size` bytes among `ranks` ranks."""
        return 2 * (ranks - 1) * (size / ranks / self.bandwidth + self.latency_s)


@dataclasses.dataclass(frozen=True)
class Work:
    """A step's work: slots, seconds of a slot and of an update, bytes of the gradient."""

    slots: int
    slot_s: float
    update_s: float
    gradient_bytes: int

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of ranks that the slots can be divided among."""
        return [ranks for ranks in range(1, self.slots + 1) if self.slots % ranks == 0]

    def step_s(self, ranks: int) -> float:
        """Seconds of a step without all-reduce."""
        return self.slots / ranks * self.slot_s + self.update_s

    def too_many(self, link: Link) -> int | None:
        """The smallest number of ranks whose all-reduce takes more than SHARE of the step; None where none does."""
        wide = (n for n in self.world_sizes if n > 1 and self._share(link, n) > SHARE)
        return next(wide, None)

    def _share(self, link: Link, ranks: int) -> float:
        return link.all_reduce_s(ranks, self.gradient_bytes) / self.step_s(ranks)

    def bandwidth_for(self, ranks: int) -> float:
        """Bytes a second that each rank's link must carry for all-reduce to take SHARE of the step, without latency."""
        return 2 * (ranks - 1) / ranks * self.gradient_bytes / (SHARE * self.step_s(ranks))
