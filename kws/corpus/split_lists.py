"""Lists of the recordings of a split: validation_list.txt and testing_list.txt, as Speech Commands has them.

lines such as yes/1.wav, ./yes/1.wav, yes\\1.wav, SRC/yes/1.wav, yes/1  ->  WORD/FILE
"""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

from kws.corpus.recording import to_nfc

LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}


@dataclasses.dataclass(frozen=True)
class SplitList:
    """A list: where it is, its split, its entries as paths below the source (with /, without ./ before them), and the
    names of the recordings that they stand for."""

    where: str
    split: str
    entries: tuple[str, ...]
    names: tuple[str, ...] = ()


def read(where: str, base: str, data: bytes, source: Path) -> SplitList:
    """The list called `base`, in a source. A byte-order mark and any line ends are understood."""
    lines = (to_nfc(line.strip()) for line in data.decode("utf-8-sig", errors="replace").split("\n"))
    return SplitList(where, LISTS[base], tuple(_entry(line, source) for line in lines if line))


def _entry(line: str, source: Path) -> str:
    path = line if "/" in line else line.replace("\\", "/")
    for root in (f"{to_nfc(str(source.absolute()))}/", f"{to_nfc(str(source))}/"):
        path = path.removeprefix(root)
    parts = PurePosixPath(path).parts
    if len(parts) > 2 and parts[0] == to_nfc(source.name):
        parts = parts[1:]
    return "/".join(parts)
