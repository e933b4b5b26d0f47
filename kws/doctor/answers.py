"""The answers of all ranks, and how a finding names ranks and nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from kws.config import Config

T = TypeVar("T")
ByRank = dict[int, dict[str, Any]]
_MOST_GROUPS = 4


@dataclasses.dataclass(kw_only=True)
class Answers:
    """What the ranks answered in each stage (kws/doctor/rank_checks.py), by rank; a rank may be missing in any.

    hosts: of the ranks that connected. lost: why a rank takes no part any more. clocks: by host, seconds ahead of rank
    0's clock, and how exactly that is known. marker, collected: the answers of rank 0's probe of the run folder.
    stopped: by which signal the examination was ended; "" where it was not.
    """

    world_size: int = 1
    config: Config | None = None
    run: Path = Path("runs")
    hosts: dict[int, str] = dataclasses.field(default_factory=dict)
    lost: dict[int, str] = dataclasses.field(default_factory=dict)
    clocks: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    machine: ByRank = dataclasses.field(default_factory=dict)
    marker: dict[str, Any] = dataclasses.field(default_factory=dict)
    folders: ByRank = dataclasses.field(default_factory=dict)
    collected: dict[str, Any] = dataclasses.field(default_factory=dict)
    shards: ByRank = dataclasses.field(default_factory=dict)
    training: ByRank = dataclasses.field(default_factory=dict)
    stopped: str = ""

    @property
    def nodes(self) -> dict[str, list[int]]:
        """The ranks on each host that connected."""
        found: dict[str, list[int]] = {}
        for rank, host in sorted(self.hosts.items()):
            found.setdefault(host, []).append(rank)
        return found

    def host_with_ranks(self, host: str) -> str:
        """The name of a host with all its ranks, to head a line."""
        return self.where(self.nodes.get(host, []))

    def where(self, ranks: Iterable[int]) -> str:
        """These ranks by node: "node1 (rank 1), node2 (ranks 2-3)"; "" in a single process."""
        if self.world_size == 1:
            return ""
        wanted = set(ranks)
        parts = [
            f"{host} ({ranks_text(on_host)})"
            for host, members in self.nodes.items()
            if (on_host := [rank for rank in members if rank in wanted])
        ]
        unknown = sorted(wanted - set(self.hosts))
        return ", ".join([*parts, *([ranks_text(unknown)] if unknown else [])])

    def by_value(self, values: dict[int, T], text: Callable[[T], str] = str) -> str:
        """One value where all ranks have the same; else each value with its ranks, the most frequent first. So it is
        for some ranks, such as those where something failed."""
        groups = self.groups(values)
        if len(groups) == 1 and values.keys() >= self.hosts.keys() - self.lost.keys():
            return text(groups[0][0])
        more = [f"and {len(groups) - _MOST_GROUPS} more values"] if len(groups) > _MOST_GROUPS else []
        return "; ".join([*(f"{self.where(ranks)}: {text(value)}" for value, ranks in groups[:_MOST_GROUPS]), *more])

    def groups(self, values: dict[int, T]) -> list[tuple[T, list[int]]]:
        """The different values with the ranks that have them, the most frequent first."""
        found: list[tuple[T, list[int]]] = []
        for rank, value in sorted(values.items()):
            members = next((ranks for other, ranks in found if other == value), None)
            if members is None:
                found.append((value, [rank]))
            else:
                members.append(rank)
        return sorted(found, key=lambda group: -len(group[1]))


def ranks_text(ranks: Iterable[int]) -> str:
    """[0, 2, 3, 4] -> "ranks 0, 2-4"."""
    numbers, parts = sorted(ranks), list[list[int]]()
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
    return f"rank{'s' if len(numbers) > 1 else ''} {text}"
