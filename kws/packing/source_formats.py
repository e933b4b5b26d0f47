"""The formats of the files that a corpus was packed from, in DIR/sources.json: shards hold 16 kHz PCM in any case.

    journal --count--> {(word, split): {"44.1 kHz, 2 channels, FLAC PCM_16": 9}} --> sources.json --> kws inspect

The file belongs to the corpus whose content id it names; a corpus without it, or with another's, is none the worse.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kws import files
from kws.data import index as index_file
from kws.data.index import Index

NAME = "sources.json"
SourceFormats = Mapping[tuple[str, str], Mapping[str, int]]
"""(word, split) -> format of the source file -> number of clips."""


def load(index: Index) -> dict[tuple[str, str], dict[str, int]]:
    """The source formats of a corpus; {} where they are not known."""
    try:
        tree: dict[str, Any] = json.loads((index.root / NAME).read_text(encoding="utf-8"))
        if tree["content_id"] != index.content_id:
            return {}
        return {(word, split): dict(counts) for word, split, counts in tree["formats"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def added(one: SourceFormats, other: SourceFormats) -> dict[tuple[str, str], dict[str, int]]:
    """The counts of two parts of a corpus together."""
    joined = {cell: dict(counts) for cell, counts in one.items()}
    for cell, counts in other.items():
        there = joined.setdefault(cell, {})
        for kind, clips in counts.items():
            there[kind] = there.get(kind, 0) + clips
    return joined


def save_sum_of_parts(index: Index, folder: Path) -> None:
    """Adds up what the parts in `folder` (kws pack --part) say, for the index of their shards together. Writes nothing
    where they do not have it for every clip."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for path in sorted(folder.glob(f"*/{NAME}")):
        if (path.parent / "index" / "index.json").exists():
            found = added(found, load(index_file.load(path.parent)))
    clips = {cell: sum(counts.values()) for cell, counts in found.items()}
    if found and clips == _clips_of_cells(index):
        save(index.root, index.content_id, found)


def _clips_of_cells(index: Index) -> dict[tuple[str, str], int]:
    return {
        (word, name): int(clips)
        for name, split in index.splits.items() if name != "noise"
        for word, clips in zip(index.words, split.cells.sum(axis=0), strict=True) if clips
    }  # fmt: skip


def save(folder: Path, content_id: str, formats: SourceFormats) -> None:
    """Writes the file for the corpus with that content id."""
    rows = [[word, split, dict(sorted(counts.items()))] for (word, split), counts in sorted(formats.items())]
    files.write_text(folder / NAME, json.dumps({"content_id": content_id, "formats": rows}, indent=1))
