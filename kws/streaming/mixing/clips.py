"""Which clips of a split may be used in a stream, and in which order those of each word are used.

    index -> clips of the split, without speakers and recordings of train -> per word: permutations, one after another
          -> without the clips in which no speech is found -> clip of (word, use)

No clip of a word is used a second time before all its clips were used. The clips of a word are numbered by the hashes
of their names, so that the choice does not depend on the format or the order of the shards.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.corpus.tasks import SILENCE, UNKNOWN
from kws.data.index import Index
from kws.data.reader import Reader
from kws.errors import UsageError, did_you_mean
from kws.streaming.mixing.speech import Speech, find_speech

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class UsableClips:
    """The clips of a split that may be used, and how many are left out and why.

    rows: ids of the clips. speakers_in_train, copies_in_train: clips left out because their speaker, or the very same
    recording, is in train. unknown_speakers: clips that may be used although their speaker is not known.
    """

    split: str
    rows: Rows
    speakers_in_train: int = 0
    copies_in_train: int = 0
    unknown_speakers: int = 0

    def notes(self) -> Iterator[str]:
        """Lines for the user."""
        if self.split == "train":
            yield "the clips are of train, so the streams are for training and trying things out, not for testing"
        if self.speakers_in_train:
            yield f"{self.speakers_in_train:,} clips of {self.split} are left out: their speakers are in train"
        if self.copies_in_train:
            yield f"{self.copies_in_train:,} clips of {self.split} are left out: the same recordings are in train"
        if self.unknown_speakers:
            yield (
                f"the speakers of {self.unknown_speakers:,} of {len(self.rows):,} clips of {self.split} are not known, "
                "so they may be in train too"
            )


def usable_clips(index: Index, name: str) -> UsableClips:
    """The clips of a split, for `valid` and `test` without those whose speaker or samples are in train. Raises
    UsageError where there are none."""
    split = index.split(name)
    speaker = np.asarray(split.columns["speaker"])
    unknown = (index.speakers == b"")[speaker]
    if name == "train" or not len(index.splits.get("train", ())):
        return UsableClips(name, np.arange(len(split)), unknown_speakers=int(unknown.sum()))
    in_train, copies = np.zeros(len(index.speakers), bool), np.zeros(len(split), bool)
    for speakers, sounds in index.splits["train"].chunks("speaker", "sound"):
        in_train[speakers] = True
        copies |= np.isin(split.columns["sound"], sounds)
    spoken = in_train[speaker] & ~unknown
    rows = np.flatnonzero(~spoken & ~copies)
    if not len(rows):
        raise UsageError(
            f"{index.root}: all clips of {name} are of speakers that are in train, and no stream is made of those; "
            "pack again with kws pack, which keeps speakers apart, or give another --split"
        )
    return UsableClips(name, rows, int(spoken.sum()), int((copies & ~spoken).sum()), int(unknown[rows].sum()))


def choose_words(index: Index, wanted: Sequence[str]) -> tuple[list[int], list[int]]:
    """Numbers of the words for the label tracks, and of all others. Raises UsageError for a word that is not there.

    wanted: (): all words, but for `unknown`, whose clips are of many words. `silence` is neither.
    """
    for word in wanted:
        if word not in index.words:
            raise UsageError(f"--words: {word!r} is no word of {index.root}{did_you_mean(word, index.words)}")
    targets = set(wanted) or {*index.words} - {UNKNOWN}
    numbers = [number for number, word in enumerate(index.words) if word != SILENCE or word in wanted]
    of_targets = [number for number in numbers if index.words[number] in targets]
    return of_targets, [number for number in numbers if number not in of_targets]


class ClipDraws:
    """Draws the clips of one kind, targets or distractors: each word equally often, each clip of a word too.

    words: numbers of the words; those without a clip in the split are in `lacking` (names), the others in `self.words`.
    key: kind and seed, on which the draws depend. inaudible: ids of the clips in which no speech was found so far.
    most_uses: how often the most used clip was drawn.
    """

    def __init__(self, reader: Reader, index: Index, usable: UsableClips, words: Sequence[int], key: tuple[str, int]):
        self._reader, self._key = reader, key
        split = index.split(usable.split)
        word, name = split.values("word", usable.rows), split.values("name", usable.rows)
        by_name = usable.rows[np.argsort(name, kind="stable")]
        of_word = split.values("word", by_name)
        there = set(np.unique(word).tolist())
        self.words = [number for number in words if number in there]
        self.lacking = [index.words[number] for number in words if number not in there]
        self._rows = {number: by_name[of_word == number] for number in self.words}
        self._names = index.words
        self._endless = {number: self._audible(number) for number in self.words}
        self._uses: dict[int, list[tuple[int, Speech]]] = {number: [] for number in self.words}
        self.inaudible = set[int]()
        self.most_uses = 0

    def clip(self, number: int) -> tuple[int, Speech]:
        """The id of clip `number` of the streams, and where its speech is. Every len(words) numbers have each word
        once. Raises UsageError where no clip of its word has audible speech."""
        use, place = divmod(number, len(self.words))
        order = counter_rng.permutation(len(self.words), "mix-turn", *self._key, use)
        word = self.words[int(order[place])]
        uses = self._uses[word]
        while len(uses) <= use:
            uses.append(next(self._endless[word]))
        return uses[use]

    def _audible(self, word: int) -> Iterator[tuple[int, Speech]]:
        """The clips of a word in which speech is found, in random order, again and again."""
        rows = self._rows[word]
        for repeat in itertools.count():
            found = False
            for place in counter_rng.permutation(len(rows), "mix-clip", *self._key, word, repeat).tolist():
                speech = find_speech(self._reader.read(int(rows[place])))
                if speech is None:
                    self.inaudible.add(int(rows[place]))
                    continue
                found, self.most_uses = True, max(self.most_uses, repeat + 1)
                yield int(rows[place]), speech
            if not found:
                raise UsageError(f"--words: no clip of {self._names[word]!r} has audible speech; leave the word out")
