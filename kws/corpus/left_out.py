"""Files of the sources that are not packed: counted by ending or reason, and listed one by one in a file.

(source, file, reason) -> a line of left_out.tsv, a count, and one message for each kind of files
"""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import TextIO

from kws.audio import formats

HIDDEN = "hidden"
"""The kind of files that are hidden, or that macOS and Windows leave everywhere."""
NEAR_MISSES = "near misses"
"""The kind of clips that `kws listen` kept and nobody has sorted yet."""
HEADER, REMARKS_HEADER = "source\tfile\treason\n", "source\tfile\tremark\n"


@dataclasses.dataclass
class _Group:
    """Files left out of one source for one reason."""

    first: str
    count: int = 0


class LeftOut:
    """The files left out so far. counts: their number by kind, which is an ending such as .txt, or a reason.
    num_faults: the number of those that are faults."""

    def __init__(self, listing: TextIO | None = None) -> None:
        """`listing`: the text file that gets a line for each."""
        self.counts = collections.Counter[str]()
        self.num_faults = 0
        self._listing = listing
        self._faults: dict[tuple[Path, str, str], _Group] = {}
        self._lines: list[str] = []
        if listing:
            listing.write(HEADER)

    def no_audio(self, source: Path, name: str, reason: str = "not audio") -> None:
        """A file that is no recording: no fault, counted by its ending."""
        ending = formats.ending(name)
        self.counts[f".{ending}" if ending else "without ending"] += 1
        self._list(source, name, reason)

    def passed_over(self, source: Path, name: str, kind: str, reason: str) -> None:
        """A file that is left out on purpose: no fault, counted by its kind."""
        self.counts[kind] += 1
        self._list(source, name, reason)

    def fault(self, source: Path, name: str, reason: str, kind: str, folder: str = "") -> None:
        """A recording that is left out although it was probably wanted. Those of one source, reason and `folder` are
        one message."""
        self.counts[kind] += 1
        self.num_faults += 1
        self._faults.setdefault((source, reason, folder), _Group(name)).count += 1
        self._list(source, name, reason)

    def damaged(self, origin: str, name: str, reason: str) -> None:
        """A recording that could not be decoded, whose message is made elsewhere."""
        self.num_faults += 1
        self.counts["damaged"] += 1
        if self._listing:
            self._listing.write(row(origin, name, reason))

    def fault_line(self, line: str, count: int = 1) -> None:
        """A message of its own, for `count` faults."""
        self.num_faults += count
        self._lines.append(line)

    def faults(self) -> list[str]:
        """A message for each kind of fault."""
        return self._lines + [
            f"{source}: {printable(group.first)}: {reason}" + (f", and {group.count - 1:,} more" * (group.count > 1))
            for (source, reason, _), group in self._faults.items()
        ]

    def notes(self) -> list[str]:
        """Notes on what is no audio, what is hidden, and near misses."""
        endings = sorted(
            ((kind, count) for kind, count in self.counts.items() if kind.startswith(".") or kind == "without ending"),
            key=lambda item: (-item[1], item[0]),
        )
        shown = [f"{count:,} {printable(kind)}" for kind, count in endings[:8]]
        shown += [f"{sum(count for _, count in endings[8:]):,} with other endings"] * (len(endings) > 8)
        notes = [f"left out {', '.join(shown)}: not audio"] if shown else []
        if self.counts[HIDDEN]:
            notes.append(f"left out {self.counts[HIDDEN]:,} hidden files, such as those of macOS (._*, .DS_Store)")
        if self.counts[NEAR_MISSES]:
            count = self.counts[NEAR_MISSES]
            notes.append(f"left out {count:,} near misses of kws listen; to use one, move it to its word's folder")
        return notes

    def _list(self, source: Path, name: str, reason: str) -> None:
        if self._listing:
            self._listing.write(row(str(source), name, reason))


def row(source: str, name: str, reason: str) -> str:
    """A line of the list."""
    return "\t".join(map(printable, (source, name, reason))) + "\n"


def printable(text: str) -> str:
    """The text with line ends, tabs and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
