"""Adding clips to a corpus (--append): common numbers for words and speakers, clips it has already, names of new
shards.

Index of the corpus (or None) + journal -> MergedIds, ClipLookup -> columns of old and new clips that can be joined
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from kws.corpus.recording import NO_WORDS
from kws.data.index import NEGATIVES, Column, Index
from kws.packing import leaks
from kws.packing.journal import Journal

_WORDLESS = ("noise", *NEGATIVES.values())


class MergedIds:
    """Words and speakers of a corpus and of the clips that are added to it, sorted, and their numbers.

    `base`: the index of the corpus; None where a new one is packed. `words`, `speakers`: those of the new clips.
    """

    def __init__(self, words: Sequence[str], speakers: Sequence[str], base: Index | None) -> None:
        old_words = base.words if base else ()
        old_speakers = _names(base.speakers) if base else []
        self.words, self.speakers = sorted({*old_words, *words}), sorted({*old_speakers, *speakers})
        self.word_ids = {word: number for number, word in enumerate(self.words)} | dict.fromkeys(NO_WORDS, 0)
        self.speaker_ids = {speaker: number for number, speaker in enumerate(self.speakers)}
        self._new_ids = {
            "word": np.array([self.word_ids[word] for word in old_words], np.uint32),
            "speaker": np.array([self.speaker_ids[speaker] for speaker in old_speakers], np.uint32),
        }

    def renumbered(self, split: str, name: str, column: Column) -> Column:
        """A column of the old corpus, or a part of it, with the merged numbers."""
        if name not in self._new_ids or (name == "word" and split in _WORDLESS):
            return column
        return self._new_ids[name][column]

    def cells(self, split: str, old: Column) -> Column:
        """Number of clips of each merged word in each shard of the old corpus: (shards, words)."""
        cells = np.zeros((len(old), len(self.words)), np.uint32)
        cells[:, np.arange(old.shape[1]) if split in _WORDLESS else self._new_ids["word"]] = old
        return cells


def _names(speakers: Column) -> list[str]:
    return [name.decode() for name in speakers.tolist()]


def next_shard_number(base: Index | None, split: str) -> int:
    """The number of the first shard that is added to a split."""
    names = [shard.name for shard in base.groups[split].shards] if base and split in base.groups else []
    found = [int(match[1]) for name in names if (match := re.fullmatch(rf"{split}/(\d{{6,}})\.tar", name))]
    return max(found, default=-1) + 1


class ClipLookup:
    """Finds clips of a corpus by the hash of their name."""

    def __init__(self, base: Index) -> None:
        groups = base.groups
        names = np.concatenate([group.columns["name"] for group in groups.values()])
        sounds = np.concatenate([group.columns["sound"] for group in groups.values()])
        order = np.argsort(names, kind="stable")
        self._splits = tuple(groups)
        which = np.repeat(np.arange(len(self._splits), dtype=np.uint8), [len(group) for group in groups.values()])
        self._names, self._sounds, self._which = names[order], sounds[order], which[order]

    def find(self, name_hash: int) -> tuple[int, str] | None:
        """Hash of the samples (column `sound`) and split of the clip of that name; None where there is none."""
        at = int(np.searchsorted(self._names, np.uint64(name_hash)))
        if at == len(self._names) or self._names[at] != name_hash:
            return None
        return int(self._sounds[at]), self._splits[self._which[at]]


def base_columns(base: Index, ids: MergedIds) -> list[leaks.ClipColumns]:
    """The columns of the old corpus that the audit for leaks reads, one entry a split."""
    return [
        leaks.ClipColumns(
            part.split, part.word if part.group else ids.renumbered(part.split, "word", part.word),
            ids.renumbered(part.split, "speaker", part.speaker), part.sound, part.samples, part.group,
        )
        for part in leaks.columns_of_index(base)
    ]  # fmt: skip


def new_columns(journal: Journal, group: str, ids: MergedIds) -> leaks.ClipColumns:
    """The columns of new clips, or negatives, of a split that the audit for leaks reads."""
    words, speakers = ids.word_ids, ids.speaker_ids
    rows = ((words[clip.word], speakers[clip.speaker], clip.sound, clip.samples) for clip in journal.clips(group))
    kinds = [("word", np.uint32), ("speaker", np.uint32), ("sound", np.uint64), ("samples", np.uint32)]
    table = np.fromiter(rows, np.dtype(kinds))
    word, speaker, sound, samples = (table[name] for name, _ in kinds)
    split = next((split for split, name in NEGATIVES.items() if name == group), "")
    if split:
        return leaks.ClipColumns(split, leaks.no_word(len(table)), speaker, sound, samples, group)
    return leaks.ClipColumns(group, word, speaker, sound, samples)
