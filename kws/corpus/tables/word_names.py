"""The words that numeric labels stand for, from a file beside the table.

Its lines are `WORD NUMBER`, `NUMBER WORD`, or `WORD` in the order of the numbers.
"""

from __future__ import annotations

import posixpath
import re
from typing import NamedTuple

from kws.corpus.tables import text
from kws.corpus.tables.place import Place

_FILES = (
    "words.txt", "dict.txt", "dict/words.txt", "dict/dict.txt", "classes.txt", "classnames.txt", "class_names.txt",
    "labels.txt", "lang/words.txt", "dict/words_id.txt",
)  # fmt: skip
_PARENTS = 3


class WordNames(NamedTuple):
    """Number, as text -> word; and the file with this list."""

    path: str
    words: dict[str, str]


def find(place: Place, folder: str, numbers: set[str]) -> WordNames | None:
    """The nearest file that names all numbers; None if there is none."""
    for _ in range(_PARENTS + 1):
        for name in _FILES:
            path = posixpath.join(folder, name)
            if place.is_file(path):
                words = _parse(text.head(place, path))
                if numbers <= words.keys():
                    return WordNames(
                        posixpath.normpath(posixpath.join(place.name, path)),
                        {number: words[number] for number in numbers},
                    )
        folder = posixpath.join(folder, "..")
    return None


def _parse(lines: str) -> dict[str, str]:
    """Numbers and words, without the brackets of <filler>."""
    words = {}
    for position, line in enumerate(lines.splitlines()):
        found = re.fullmatch(r"(.*\S)\s+(-?\d+)", line.strip()) or None
        other = re.fullmatch(r"(-?\d+)\s+(.*\S)", line.strip())
        if other:
            words[other[1]] = other[2]
        elif found:
            words[found[2]] = found[1]
        elif line.strip():
            words[str(position)] = line.strip()
    return {number: word.strip("<>") for number, word in words.items() if word.strip("<>")}
