"""A corpus and what is added to it as one: words and speakers numbered anew, clips that are there already, shard names.

Index (or none) + journal -> Numbering, Known -> columns of old and new that the audit and the index can join
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from kws.corpus.source import NOISE_FOLDER
from kws.data.index import Column, Index
from kws.packing import leaks
from kws.packing.journal import Journal


class Numbering:
    """Words and speakers of a corpus and what is added to it, sorted, and their numbers."""

    def __init__(self, words: Sequence[str], speakers: Sequence[str], base: Index | None) -> None:
        old_words = base.words if base else ()
        old_speakers = _names(base.speakers) if base else []
        self.words, self.speakers = sorted({*old_words, *words}), sorted({*old_speakers, *speakers})
        self.word_ids = {word: number for number, word in enumerate(self.words)} | {NOISE_FOLDER: 0}
        self.speaker_ids = {speaker: number for number, speaker in enumerate(self.speakers)}
        self._of_old = {
            "word": np.array([self.word_ids[word] for word in old_words], np.uint32),
            "speaker": np.array([self.speaker_ids[speaker] for speaker in old_speakers], np.uint32),
        }

    def renumbered(self, split: str, name: str, column: Column) -> Column:
        """A column of the old corpus, or a part of one, with the numbers of now."""
        if name not in self._of_old or (name == "word" and split == "noise"):
            return column
        return self._of_old[name][column]

    def cells(self, split: str, old: Column) -> Column:
        """Clips of each word in each shard of the old corpus: (shards, words)."""
        cells = np.zeros((len(old), len(self.words)), np.uint32)
        cells[:, np.arange(old.shape[1]) if split == "noise" else self._of_old["word"]] = old
        return cells


def _names(speakers: Column) -> list[str]:
    return [name.decode() for name in speakers.tolist()]


def next_number(base: Index | None, split: str) -> int:
    """Of the first shard that is added to a split."""
    names = [shard.name for shard in base.splits[split].shards] if base and split in base.splits else []
    found = [int(match[1]) for name in names if (match := re.fullmatch(rf"{split}/(\d{{6,}})\.tar", name))]
    return max(found, default=-1) + 1


class Known:
    """The clips of a corpus by name."""

    def __init__(self, base: Index) -> None:
        names = np.concatenate([split.columns["name"] for split in base.splits.values()])
        sounds = np.concatenate([split.columns["sound"] for split in base.splits.values()])
        order = np.argsort(names, kind="stable")
        self._splits = tuple(base.splits)
        which = np.repeat(np.arange(len(self._splits), dtype=np.uint8), [len(split) for split in base.splits.values()])
        self._names, self._sounds, self._which = names[order], sounds[order], which[order]

    def find(self, name: int) -> tuple[int, str] | None:
        """Sound and split of the clip of that name, if there is one."""
        at = int(np.searchsorted(self._names, np.uint64(name)))
        if at == len(self._names) or self._names[at] != name:
            return None
        return int(self._sounds[at]), self._splits[self._which[at]]


def old_parts(base: Index, numbering: Numbering) -> list[leaks.Part]:
    """What the corpus shows the audit."""
    return [
        leaks.Part(
            part.split, numbering.renumbered(part.split, "word", part.word),
            numbering.renumbered(part.split, "speaker", part.speaker), part.sound,
        )
        for part in leaks.parts_of(base)
    ]  # fmt: skip


def new_part(book: Journal, split: str, numbering: Numbering) -> leaks.Part:
    """What a split of the clips to come shows the audit."""
    words, speakers = numbering.word_ids, numbering.speaker_ids
    rows = ((words[clip.word], speakers[clip.speaker], clip.sound) for clip in book.clips(split))
    table = np.fromiter(rows, np.dtype([("word", np.uint32), ("speaker", np.uint32), ("sound", np.uint64)]))
    return leaks.Part(split, table["word"], table["speaker"], table["sound"])
