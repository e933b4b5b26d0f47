"""What a test must not share with training: speakers in two splits, one recording in two splits or under two words.

    columns word, speaker, sound of every split -> numbers that are in more than one -> counts, examples -> lines

Only the columns are read, in chunks; beside them one column of 64-bit numbers is sorted. Noise is left out: it has no
words, and every split hears its own part of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kws.data.index import Column, Index

_EXAMPLES, _CHUNK = 3, 1 << 22
Place = tuple[int, int]
"""A clip: which of the parts, which of its rows."""
NameOf = Callable[[Place], str]


@dataclasses.dataclass(frozen=True)
class Part:
    """Clips of one split, numbered alike in all parts: columns (clips,) of words, speakers and sounds."""

    split: str
    word: Column
    speaker: Column
    sound: Column


@dataclasses.dataclass(frozen=True)
class Leaks:
    """How many there are of each kind, and the first few: speakers with their splits, recordings as two clips."""

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
        """For programs."""
        return {
            "speakers_in_two_splits": self.speakers,
            "audio_in_two_splits": self.between_splits,
            "audio_under_two_words": self.between_words,
        }


def find(parts: Sequence[Part], speakers: Sequence[str] | Column) -> Leaks:
    """Looks through all parts, of which none is noise; `speakers` are what the numbers stand for, "": nobody known."""
    shared = _shared_speakers(parts, speakers)
    clips = list(_repeated(parts))
    splits = [pair for group in clips if (pair := _differing(group, lambda clip: parts[clip.place[0]].split))]
    words = [pair for group in clips if (pair := _differing(group, lambda clip: clip.word))]
    return Leaks(
        len(shared), len(splits), len(words),
        tuple(shared[:_EXAMPLES]), tuple(splits[:_EXAMPLES]), tuple(words[:_EXAMPLES]),
    )  # fmt: skip


def of_index(index: Index) -> Leaks:
    """Of a whole corpus."""
    return find(parts_of(index), index.speakers)


def parts_of(index: Index) -> list[Part]:
    """A packed corpus's splits, without the noise."""
    return [
        Part(name, split.columns["word"], split.columns["speaker"], split.columns["sound"])
        for name, split in index.splits.items()
        if name != "noise"
    ]


def lines(index: Index) -> list[str]:
    """Of a packed corpus, for a person: a line a kind, its clips as SPLIT/NUMBER; none where nothing leaks."""
    parts = parts_of(index)
    return described(of_index(index), parts, lambda place: f"{parts[place[0]].split}/{place[1]}")


def described(leaks: Leaks, parts: Sequence[Part], name_of: NameOf) -> list[str]:
    """A line a kind; `name_of` says what a clip is called."""
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


def _shared_speakers(parts: Sequence[Part], speakers: Sequence[str] | Column) -> list[tuple[str, tuple[str, ...]]]:
    """Those in more than one split, with the splits."""
    splits = list(dict.fromkeys(part.split for part in parts))
    heard = np.zeros((len(splits), len(speakers)), bool)
    for part in parts:
        for start in range(0, len(part.speaker), _CHUNK):
            heard[splits.index(part.split), part.speaker[start : start + _CHUNK]] = True
    shared = ((_text(speakers[number]), heard[:, number]) for number in np.flatnonzero(heard.sum(axis=0) > 1).tolist())
    return [(name, tuple(itertools.compress(splits, where.tolist()))) for name, where in shared if name]


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


# --- recordings -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Clip:
    place: Place
    word: int


def _repeated(parts: Sequence[Part]) -> Iterator[list[_Clip]]:
    """Clips of the same samples, those of each recording together, in the order of the first clips."""
    several = _values_there_twice(parts)
    groups: dict[int, list[_Clip]] = {}
    for number, part in enumerate(parts):
        for start in range(0, len(part.sound), _CHUNK):
            sound = np.asarray(part.sound[start : start + _CHUNK])
            for row in np.flatnonzero(_is_among(sound, several)).tolist():
                clip = _Clip((number, start + row), int(part.word[start + row]))
                groups.setdefault(int(sound[row]), []).append(clip)
    yield from groups.values()


def _values_there_twice(parts: Sequence[Part]) -> npt.NDArray[np.uint64]:
    """Sounds of more than one clip, sorted."""
    everything = np.concatenate([np.zeros(0, np.uint64), *(part.sound for part in parts)])
    everything.sort()
    return np.unique(everything[1:][everything[1:] == everything[:-1]])


def _is_among(values: Column, among: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    if not len(among):
        return np.zeros(len(values), bool)
    found: npt.NDArray[np.bool_] = among[np.minimum(np.searchsorted(among, values), len(among) - 1)] == values
    return found


def _differing(group: Sequence[_Clip], kind: Callable[[_Clip], object]) -> tuple[Place, Place] | None:
    """The first clip and the first that is of another kind."""
    other = next((clip for clip in group if kind(clip) != kind(group[0])), None)
    return (group[0].place, other.place) if other else None
