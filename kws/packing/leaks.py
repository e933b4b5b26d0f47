"""The audit for leaks between splits: a speaker or a recording in two splits, and a recording under two words.

    columns word, speaker, sound of every split -> values in more than one split or word -> counts, examples -> lines

Only these columns are read, in chunks; memory holds one sorted column of 64-bit numbers. Noise is left out: it has no
words, and every split uses a part of each noise recording that no other split uses. So is digital silence, which is the
same everywhere and teaches nothing about the test split. Negatives count as recordings of one more word.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kws.audio import codec
from kws.data.index import NEGATIVES, Column, Index

_EXAMPLES, _CHUNK = 3, 1 << 22
Place = tuple[int, int]
"""A clip: which of the ClipColumns, and which row of them."""
NameOf = Callable[[Place], str]
"""The name of a clip for messages."""


@dataclasses.dataclass(frozen=True)
class ClipColumns:
    """Columns (clips,) of clips of one split: numbers of word and speaker, hash and number of the samples. The same
    number means the same word or speaker in all that are audited together. group: for negatives their group
    (kws.data.index.GROUPS); "" for clips of words."""

    split: str
    word: Column
    speaker: Column
    sound: Column
    samples: Column
    group: str = ""

    @property
    def name(self) -> str:
        """The name of the group that the clips are in."""
        return self.group or self.split


_NO_WORD = (1 << 32) - 1


def no_word(count: int) -> Column:
    """The number of the word of negatives, (count,)."""
    return np.full(count, _NO_WORD, np.uint32)


@dataclasses.dataclass(frozen=True)
class Leaks:
    """Number of leaks of each kind, and the first few of them: speakers with their splits, recordings as pairs of
    clips."""

    speakers: int = 0
    between_splits: int = 0
    between_words: int = 0
    speaker_examples: tuple[tuple[str, tuple[str, ...]], ...] = ()
    split_examples: tuple[tuple[Place, Place], ...] = ()
    word_examples: tuple[tuple[Place, Place], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.speakers or self.between_splits or self.between_words)

    @property
    def counts(self) -> dict[str, int]:
        """For JSON output."""
        return {
            "speakers_in_two_splits": self.speakers,
            "audio_in_two_splits": self.between_splits,
            "audio_under_two_words": self.between_words,
        }


def find_leaks(parts: Sequence[ClipColumns], speakers: Sequence[str] | Column) -> Leaks:
    """The leaks between all parts, none of which is noise. `speakers`: name of each speaker number, "": unknown
    speaker."""
    shared = _shared_speakers(parts, speakers)
    groups = list(_repeated(parts))
    splits = [pair for group in groups if (pair := _differing(group, lambda clip: parts[clip.place[0]].split))]
    words = [pair for group in groups if (pair := _differing(group, lambda clip: clip.word))]
    return Leaks(
        len(shared), len(splits), len(words),
        tuple(shared[:_EXAMPLES]), tuple(splits[:_EXAMPLES]), tuple(words[:_EXAMPLES]),
    )  # fmt: skip


def leaks_in_index(index: Index) -> Leaks:
    """The leaks of a packed corpus."""
    return find_leaks(columns_of_index(index), index.speakers)


def columns_of_index(index: Index) -> list[ClipColumns]:
    """The columns of a packed corpus, an entry a split, without noise; then those of its negatives."""
    clips = [
        ClipColumns(
            name, split.columns["word"], split.columns["speaker"], split.columns["sound"], split.columns["samples"]
        )
        for name, split in index.splits.items()
        if name != "noise"
    ]
    return clips + [
        ClipColumns(
            name, no_word(len(group)), group.columns["speaker"], group.columns["sound"], group.columns["samples"],
            NEGATIVES[name],
        )
        for name, group in index.negatives.items()
    ]  # fmt: skip


def describe_index(index: Index) -> list[str]:
    """The leaks of a packed corpus as text, a line for each kind that occurs; clips are named SPLIT/NUMBER."""
    parts = columns_of_index(index)
    return describe(leaks_in_index(index), parts, lambda place: f"{parts[place[0]].name}/{place[1]}")


def describe(leaks: Leaks, parts: Sequence[ClipColumns], name_of: NameOf) -> list[str]:
    """Leaks as text, a line for each kind that occurs. `name_of`: the name of a clip."""
    found = []
    if leaks.speakers:
        some = [f"{speaker}: {' and '.join(splits)}" for speaker, splits in leaks.speaker_examples]
        found.append(_line(leaks.speakers, "speaker", "in more than one split", some))
    if leaks.between_splits:
        some = [" = ".join(f"{parts[place[0]].split}: {name_of(place)}" for place in pair)
                for pair in leaks.split_examples]  # fmt: skip
        found.append(_line(leaks.between_splits, "recording", "in more than one split", some))
    if leaks.between_words:
        some = [" = ".join(map(name_of, pair)) for pair in leaks.word_examples]
        found.append(_line(leaks.between_words, "recording", "under more than one word", some))
    return found


def _line(count: int, what: str, where: str, examples: Sequence[str]) -> str:
    more = ", ..." if count > len(examples) else ""
    return f"{count:,} {what}{'s are' if count > 1 else ' is'} {where} ({', '.join(examples)}{more})"


# --- speakers -------------------------------------------------------------------------------------------------


def _shared_speakers(
    parts: Sequence[ClipColumns], speakers: Sequence[str] | Column
) -> list[tuple[str, tuple[str, ...]]]:
    """Names of the speakers in more than one split, with these splits."""
    splits = list(dict.fromkeys(part.split for part in parts))
    present = np.zeros((len(splits), len(speakers)), bool)
    for part in parts:
        for start in range(0, len(part.speaker), _CHUNK):
            present[splits.index(part.split), part.speaker[start : start + _CHUNK]] = True
    shared = (
        (_text(speakers[number]), present[:, number]) for number in np.flatnonzero(present.sum(axis=0) > 1).tolist()
    )
    return [(name, tuple(itertools.compress(splits, where.tolist()))) for name, where in shared if name]


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


# --- recordings -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Clip:
    place: Place
    word: int


def _repeated(parts: Sequence[ClipColumns]) -> Iterator[list[_Clip]]:
    """Groups of clips with the same samples, in the order of their first clips."""
    repeated = _repeated_sounds(parts)
    groups: dict[int, list[_Clip]] = {}
    silent = set[int]()
    for number, part in enumerate(parts):
        for start in range(0, len(part.sound), _CHUNK):
            sound = np.asarray(part.sound[start : start + _CHUNK])
            for row in np.flatnonzero(_is_among(sound, repeated)).tolist():
                clip, sound_hash = _Clip((number, start + row), int(part.word[start + row])), int(sound[row])
                if (
                    sound_hash not in groups
                    and sound_hash not in silent
                    and sound_hash == _silence(int(part.samples[start + row]))
                ):
                    silent.add(sound_hash)
                if sound_hash not in silent:
                    groups.setdefault(sound_hash, []).append(clip)
    yield from groups.values()


@functools.cache
def _silence(samples: int) -> int:
    """The hash of that many samples of digital silence."""
    return codec.pcm_hash(np.zeros(samples, np.int16))


def _repeated_sounds(parts: Sequence[ClipColumns]) -> npt.NDArray[np.uint64]:
    """Hashes of samples that more than one clip has, sorted."""
    sounds = np.concatenate([np.zeros(0, np.uint64), *(part.sound for part in parts)])
    sounds.sort()
    return np.unique(sounds[1:][sounds[1:] == sounds[:-1]])


def _is_among(values: Column, among: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    if not len(among):
        return np.zeros(len(values), bool)
    found: npt.NDArray[np.bool_] = among[np.minimum(np.searchsorted(among, values), len(among) - 1)] == values
    return found


def _differing(group: Sequence[_Clip], kind: Callable[[_Clip], object]) -> tuple[Place, Place] | None:
    """The first clip of the group and the first one of another kind; None where all are of one kind."""
    other = next((clip for clip in group if kind(clip) != kind(group[0])), None)
    return (group[0].place, other.place) if other else None
