"""The parts of a step, by which the log, the report and the profile show where the time goes.

Every moment of a run belongs to one part, so the parts of a span of time add up to its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PARTS = ("data", "front_end", "forward", "backward", "all_reduce", "update", "save", "evaluation", "other")
"""data: waiting for clips. front_end: augmentation and features. forward: network and loss. backward: this rank's own
gradients. all_reduce: from the end of this rank's own backward pass until the gradients and sums of all ranks are
there (what overlaps with the backward pass is not in it; waiting for slower ranks is). update: optimizer, batch-norm
statistics, averaged weights. save: until training may continue, profiles too. evaluation: of
the valid split. other: the rest, such as plans, logs and progress."""
BUSY_PARTS = ("data", "front_end", "forward", "backward", "update", "other")
"""What a rank does before the others have to wait for it: the sum is the rank's busy time."""
LABELS = {part: part for part in PARTS} | {"front_end": "front end", "all_reduce": "all-reduce"}
"""How a part is written in tables, pictures and traces."""


def busy_seconds(seconds: Mapping[str, Sequence[float]]) -> list[float]:
    """Part -> seconds of each rank (W,); returns the busy seconds of each rank (W,)."""
    columns = [seconds[part] for part in BUSY_PARTS if part in seconds]
    return [sum(of_rank) for of_rank in zip(*columns, strict=True)]


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Part -> fraction of the time, in the order of PARTS; without parts that took no time."""
    total = sum(seconds.values())
    return {part: seconds[part] / total for part in PARTS if total > 0.0 and seconds.get(part, 0.0) > 0.0}


def rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """For a line of the log: to microseconds, in the order of PARTS, without parts that took no time."""
    found = {part: round(seconds.get(part, 0.0), 6) for part in PARTS}
    return {part: value for part, value in found.items() if value > 0.0}


def largest_parts(seconds: Mapping[str, float], most: int, width: int = 1000) -> str:
    """`backward 41 %, forward 30 %`: the largest parts, at most so many and so many characters; without those below
    half a percent."""
    by_size = sorted(shares(seconds).items(), key=lambda item: -item[1])
    texts = [f"{LABELS[part]} {share:.0%}".replace("%", " %") for part, share in by_size[:most] if share >= 0.005]
    while len(", ".join(texts)) > width:
        texts.pop()
    return ", ".join(texts)
