"""Which words are which classes.

`words`: every word of the corpus is a class, in alphabetical order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from kws.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Task:
    """`classes` are the labels' names; `class_of[w]` is the label of word w of the corpus, -1 where it is left out."""

    name: str
    classes: tuple[str, ...]
    class_of: tuple[int, ...]


def resolve(name: str, words: Sequence[str]) -> Task:
    """The task of that name over the corpus's words. Raises UsageError for a name that is none."""
    if name != "words":
        raise UsageError(f"data.task: no task {name!r}; there is words (every word of the corpus is a class)")
    classes = tuple(sorted(words))
    return Task(name, classes, tuple(classes.index(word) for word in words))


def onto(classes: Sequence[str], words: Sequence[str]) -> Task:
    """The classes a network was trained on, over the words of another corpus; words it does not know are left out."""
    known = {word: label for label, word in enumerate(classes)}
    return Task("trained", tuple(classes), tuple(known.get(word, -1) for word in words))
