"""What the folders of a source mean: which of them names the word, the speaker and the split.

    folders of a source, with the number of recordings directly in each -> Layout -> word, speaker and split of a folder

    yes/1.wav                   WORD
    train/yes/1.wav             SPLIT/WORD
    anna_07/yes/1.wav           SPEAKER/WORD, or WORD/SPEAKER the other way round
    my words/yes/1.wav          one folder around everything is no word

Only what the names of the folders prove is understood. Two levels that could each be the words are refused, with both
readings as `--names` patterns. Nothing here reads a file: kws/corpus/survey.py counts.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kws.corpus.folder_names import Kind, are_no_words, is_container, kind_of_level
from kws.corpus.recording import NOISE_FOLDER
from kws.corpus.split_names import split_called, split_in
from kws.errors import UsageError

Folder = tuple[str, ...]
"""The parts of a folder's path below the source."""


@dataclasses.dataclass(slots=True)
class FolderCount:
    """The recordings directly in a folder: their number, how many have their speaker in their name, and the first such
    speaker."""

    files: int = 0
    named: int = 0
    speaker: str = ""


class Reading(NamedTuple):
    """What the names of a folder mean for its recordings; "" where they mean nothing. `others`: the folders of a long
    name without the word's; a split folder is the first of them."""

    word: str
    speaker: str = ""
    split: str = ""
    others: Folder = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The meaning of each level of folders.

    split_level: the level of the split folders, from the source; None: there are none. unlabelled: split folders whose
    recordings have no word. prefix: the folders around everything else, below the split folder. word_level,
    speaker_level: levels below those; None: the last folder is the word; no folder is the speaker. words: those found,
    with which folders of another depth are read. notes: lines for the user.
    """

    split_level: int | None = None
    split_folders: frozenset[str] = frozenset()
    unlabelled: frozenset[str] = frozenset()
    prefix: Folder = ()
    depth: int = 1
    word_level: int | None = None
    speaker_level: int | None = None
    words: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def has_roles(self) -> bool:
        """Whether folders mean more than the word, the last of them. File names then repeat, so that names contain the
        folders."""
        levels = (self.word_level, self.speaker_level)
        return any(level is not None for level in levels) or bool(self.split_folders - self.unlabelled)

    def read(self, folder: Folder) -> Reading | None:
        """The meaning of a folder; None where its recordings belong to no word."""
        if NOISE_FOLDER in folder:
            return Reading(NOISE_FOLDER, others=tuple(part for part in folder if part != NOISE_FOLDER))
        if not folder or any(part.startswith((".", "_")) for part in folder):
            return None
        split, rest = self.without_split(folder)
        if split in self.unlabelled or not rest:
            return None
        inside = rest[: len(self.prefix)] == self.prefix and len(rest) > len(self.prefix)
        tail = rest[len(self.prefix) :] if inside else rest
        word = self._word_level(tail)
        speaker = tail[self.speaker_level] if self.speaker_level is not None and len(tail) == self.depth else ""
        others = tail[:word] + tail[word + 1 :]
        return Reading(tail[word], speaker, split, ((split,) if split else ()) + others)

    def without_split(self, folder: Folder) -> tuple[str, Folder]:
        """The split folder ("": none) and the folders without it."""
        level = self.split_level
        if level is None or level >= len(folder) or folder[level] not in self.split_folders:
            return "", folder
        return folder[level], folder[:level] + folder[level + 1 :]

    def _word_level(self, tail: Folder) -> int:
        if self.word_level is not None and len(tail) == self.depth:
            return self.word_level
        last = len(tail) - 1
        if len(tail) != self.depth and tail[last] not in self.words:
            return next((level for level, name in enumerate(tail) if name in self.words), last)
        return last


def understand(where: str, counts: Mapping[Folder, FolderCount]) -> Layout:
    """The layout of a source's folders. `where`: the source in messages. Raises UsageError where several layouts are
    possible, and where folders of words are missing."""
    named = {folder: count for folder, count in counts.items() if folder and not _is_special(folder)}
    if not named:
        return Layout()
    layout = _with_splits(where, named)
    rests = _rests(layout, named)
    layout = dataclasses.replace(layout, prefix=_prefix(rests))
    tails = {rest[len(layout.prefix) :]: count for rest, count in rests.items()}
    layout = _with_levels(where, layout, tails)
    return dataclasses.replace(layout, notes=(*layout.notes, *_notes(layout, named)))


def split_folders(counts: Mapping[Folder, FolderCount]) -> Layout:
    """The layout of the split folders alone, for recordings whose word is in their names."""
    named = {folder: count for folder, count in counts.items() if folder and not _is_special(folder)}
    for level in range(max(map(len, named), default=0)):
        names = {folder[level] for folder in named if len(folder) > level}
        if _are_splits(names):
            return Layout(split_level=level, split_folders=frozenset(names))
    return Layout()


def _is_special(folder: Folder) -> bool:
    return any(part.startswith((".", "_")) for part in folder)


# --- split folders ----------------------------------------------------------------------------------------------


def _with_splits(where: str, counts: Mapping[Folder, FolderCount]) -> Layout:
    """The layout as far as split folders are concerned."""
    for level in range(max(map(len, counts))):
        names = {folder[level] for folder in counts if len(folder) > level}
        found = _split_folders(level, names, counts)
        if found:
            return _without_unlabelled(where, level, found, counts)
    return Layout()


def _split_folders(level: int, names: set[str], counts: Mapping[Folder, FolderCount]) -> set[str]:
    """The names of a level that are splits and not words: all of it, if they name two splits; else those with
    words of the rest of the source below them."""
    if _are_splits(names):
        return names
    last = collections.defaultdict[str, set[str]](set)  # name -> the last folders below it, perhaps itself
    for folder in counts:
        last[folder[level] if len(folder) > level else ""].add(folder[-1])
    owners = collections.Counter(word for words in last.values() for word in words)
    return {
        name
        for name in names
        if split_called(name) and name not in last[name] and any(owners[word] > 1 for word in last[name])
    }


def _are_splits(names: set[str]) -> bool:
    return all(map(split_in, names)) and len(set(map(split_in, names))) > 1


def _without_unlabelled(where: str, level: int, names: set[str], counts: Mapping[Folder, FolderCount]) -> Layout:
    """Splits whose recordings lie beside the word folders of other splits have no words: as in Kaggle's competition."""
    rests = collections.defaultdict[str, set[Folder]](set)
    for folder in counts:
        if len(folder) > level and folder[level] in names:
            rests[folder[level]].add(folder[:level] + folder[level + 1 :])
    inner = {folder[:depth] for found in rests.values() for folder in found for depth in range(len(folder))}
    unlabelled = {name for name, found in rests.items() if len(found) == 1 and found <= inner}
    labelled = [name for name in rests if name not in unlabelled]
    words = {folder for name in labelled for folder in rests[name]}
    if len(words) == 1 and len(next(iter(words))) == level:
        raise UsageError(_no_words(where, names, level))
    notes = tuple(
        f"{where}: {_several(_files(counts, level, name), 'recording')} in {_path(level, name, rests[name])} left out: "
        "not in word folders"
        for name in sorted(unlabelled)
    )
    if len(set(map(split_in, labelled))) < 2 and unlabelled:
        names = set(unlabelled)  # the other folders are then folders around the words
    return Layout(split_level=level, split_folders=frozenset(names), unlabelled=frozenset(unlabelled), notes=notes)


def _files(counts: Mapping[Folder, FolderCount], level: int, name: str) -> int:
    return sum(count.files for folder, count in counts.items() if len(folder) > level and folder[level] == name)


def _path(level: int, name: str, rests: Iterable[Folder]) -> str:
    rest = next(iter(rests))
    return "/".join((*rest[:level], name, *rest[level:])) + "/"


def _no_words(where: str, names: Iterable[str], level: int) -> str:
    below = "{}/" * level
    above = f"; if the folder above them is the word: --names '{'{}/' * (level - 1)}{{word}}/{{split}}/{{}}'" * (
        level > 0
    )
    return (
        f"{where}: the recordings are directly in {', '.join(f'{name}/' for name in sorted(names)[:4])}, without word "
        f"folders; if these are splits and the file names contain the word: --names '{below}{{split}}/{{word}}_{{}}', "
        f"and if these are the words: --names '{below}{{word}}/{{}}'" + above
    )


def _rests(layout: Layout, counts: Mapping[Folder, FolderCount]) -> dict[Folder, FolderCount]:
    """The labelled folders without their split folders; equal ones counted together."""
    merged: dict[Folder, FolderCount] = {}
    for folder, count in counts.items():
        split, rest = layout.without_split(folder)
        if rest and split not in layout.unlabelled:
            before = merged.get(rest, FolderCount())
            merged[rest] = FolderCount(
                before.files + count.files, before.named + count.named, before.speaker or count.speaker
            )
    return merged


def _prefix(folders: Iterable[Folder]) -> Folder:
    """The folders around all others, of which each keeps at least one."""
    first, *others = folders
    prefix = first[:-1]
    for folder in others:
        prefix = prefix[: len(folder) - 1]
        while folder[: len(prefix)] != prefix:
            prefix = prefix[:-1]
    return prefix


# --- words and speakers -----------------------------------------------------------------------------------------


def _with_levels(where: str, layout: Layout, tails: Mapping[Folder, FolderCount]) -> Layout:
    """The layout with the levels of word and speaker, decided by the folders of the most frequent depth."""
    files = collections.Counter[int]()
    for tail, count in tails.items():
        files[len(tail)] += count.files
    depth = max(files, key=lambda depth: (files[depth], -depth))
    usual = {tail: count for tail, count in tails.items() if len(tail) == depth}
    word, speaker = _decide(where, layout, usual, depth)
    words = frozenset(tail[depth - 1 if word is None else word] for tail in usual)
    notes = layout.notes + tuple(_depth_notes(where, files, depth)) + tuple(_speaker_notes(where, layout, usual, depth))
    return dataclasses.replace(layout, depth=depth, word_level=word, speaker_level=speaker, words=words, notes=notes)


def _depth_notes(where: str, files: Mapping[int, int], depth: int) -> Iterable[str]:
    others = sum(files.values()) - files[depth]
    if others:
        yield (
            f"{where}: word folders at different depths: {files[depth]:,} recordings in the usual one and {others:,} "
            "in others, whose word is the folder with the name of a known word, else the last one"
        )


def _speaker_notes(where: str, layout: Layout, tails: Mapping[Folder, FolderCount], depth: int) -> Iterable[str]:
    """A note where the only level of folders, which must be the words, looks like speakers: 01, 02, or p225, p226."""
    names = {tail[0] for tail in tails}
    if depth > 1 or len(names) < 2 or any(count.named for count in tails.values()):
        return
    if kind_of_level(names, 0.0) is Kind.SPEAKERS:
        yield (
            f"{where}: the folders {_some(names)} are read as the words, but look like speakers; if they are, and the "
            f"file names contain the word: --names '{_pattern(layout, '{speaker}/{word}_{}')}'"
        )


def _decide(
    where: str, layout: Layout, tails: Mapping[Folder, FolderCount], depth: int
) -> tuple[int | None, int | None]:
    """The levels of word (None: the last) and speaker (None: none). Raises UsageError where they are not evident."""
    names = [{tail[level] for tail in tails} for level in range(depth)]
    varying = [level for level in range(depth) if len(names[level]) > 1]
    if depth == 1:
        if len(tails) == 1 and is_container(next(iter(tails))[0]):
            raise UsageError(_single_container(where, layout, next(iter(tails))))
        if are_no_words(names[0]) or (len(tails) > 1 and _speakers_share(tails, 0) > 0.9):
            raise UsageError(_only_speakers(where, layout, names[0]))
        return None, None
    kinds = {level: kind_of_level(names[level], _speakers_share(tails, level)) for level in range(depth)}
    word = _the_only(kinds, Kind.WORDS) or _the_only(kinds, Kind.UNKNOWN)
    has_names = sum(count.named for count in tails.values()) >= 0.9 * sum(count.files for count in tails.values())
    if word is None and has_names and depth - 1 in varying and kinds[depth - 1] is not Kind.SPEAKERS:
        word = (depth - 1,)  # as kws has always read names with _nohash_
    if word is None:
        raise UsageError(_ambiguous(where, layout, tails, depth))
    speaker = None if has_names else _speaker_level(kinds, word[0], tails)
    return (None if word[0] == depth - 1 else word[0]), speaker


def _the_only(kinds: Mapping[int, Kind], kind: Kind) -> tuple[int] | None:
    """The only level of that kind, if there is just one."""
    found = [level for level, of_level in kinds.items() if of_level is kind]
    return (found[0],) if len(found) == 1 else None


def _speakers_share(tails: Mapping[Folder, FolderCount], level: int) -> float:
    """The share of the folders, of those with speakers in file names, whose part at that level is the speaker."""
    found = [tail[level] == count.speaker for tail, count in tails.items() if count.speaker]
    return sum(found) / len(found) if found else 0.0


def _speaker_level(kinds: Mapping[int, Kind], word: int, tails: Mapping[Folder, FolderCount]) -> int | None:
    """The level of the speakers: the only one that looks like it, else the only other one if words repeat below it."""
    speakers = [level for level, kind in kinds.items() if kind is Kind.SPEAKERS]
    if speakers:
        return speakers[0] if len(speakers) == 1 else None
    others = [level for level, kind in kinds.items() if kind is Kind.UNKNOWN and level != word]
    if len(others) != 1:
        return None
    owners = collections.defaultdict[str, set[str]](set)
    for tail in tails:
        owners[tail[word]].add(tail[others[0]])
    repeated = sum(len(found) > 1 for found in owners.values())
    return others[0] if 2 * repeated > len(owners) or word < others[0] else None


def _single_container(where: str, layout: Layout, tail: Folder) -> str:
    folder = "/".join((*layout.prefix, *tail))
    word = "/".join((*layout.prefix, "{word}", "{}"))
    return (
        f"{where}: all recordings are in {folder}/, which is hardly a word; if the file names contain the word: "
        f"--names '{folder}/{{word}}_{{}}', and if it is the word: --names '{word}'"
    )


def _only_speakers(where: str, layout: Layout, names: Iterable[str]) -> str:
    in_names, in_folders = _pattern(layout, "{speaker}/{word}_{}"), _pattern(layout, "{word}/{}")
    return (
        f"{where}: the folders {_some(names)} are hardly words; if the file names contain the word: --names "
        f"'{in_names}', and if they are the words: --names '{in_folders}'"
    )


def _pattern(layout: Layout, rest: str) -> str:
    """A pattern for paths below the source that ends in `rest`."""
    before = [*layout.prefix]
    if layout.split_level is not None:
        before.insert(layout.split_level, "{split}")
    return "/".join([*before, rest])


def _ambiguous(where: str, layout: Layout, tails: Mapping[Folder, FolderCount], depth: int) -> str:
    """Both readings, first and last level, with what to type for each."""
    example = "/".join(next(iter(tails)))
    between = ["{}"] * (depth - 2)
    readings = (["{speaker}", *between, "{word}", "{}"], ["{word}", *between, "{speaker}", "{}"])
    first, last = (_some({tail[level] for tail in tails}) for level in (0, depth - 1))
    patterns = [_pattern(layout, "/".join(reading)) for reading in readings]
    return (
        f"{where}: {example}/: which folder is the word? If the words are {last}: --names '{patterns[0]}'; if they are "
        f"{first}: --names '{patterns[1]}'"
    )


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:3]) + (", ..." if found[3:] else "")


# --- notes ------------------------------------------------------------------------------------------------------


def _several(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _notes(layout: Layout, counts: Mapping[Folder, FolderCount]) -> Iterable[str]:
    """What was understood where it is more than WORD/FILE, and words that are suspiciously large."""
    files, speakers, splits = collections.Counter[str](), set[str](), collections.Counter[str]()
    for folder, count in counts.items():
        reading = layout.read(folder)
        if reading:
            files[reading.word] += count.files
            speakers.add(reading.speaker)
            splits[split_in(reading.split)] += count.files
    if layout.has_roles:
        levels = ["WORD" if level == layout.word_level else "SPEAKER" if level == layout.speaker_level else "*"
                  for level in range(layout.depth)]  # fmt: skip
        if layout.word_level is None:
            levels[-1] = "WORD"
        if layout.split_level is not None and layout.split_folders - layout.unlabelled:
            levels.insert(min(layout.split_level, len(levels)), "SPLIT")
        if levels != ["WORD"]:
            people = f", {_several(len(speakers - {''}), 'speaker')}" if layout.speaker_level is not None else ""
            yield f"folders read as {'/'.join(levels)}: {_several(len(files), 'word')} ({_some(files)}){people}"
    if splits[""] and len(splits) > 1:
        yield f"{_several(splits[''], 'recording')} in no split folder: used for training"
    largest, number = max(files.items(), key=lambda item: item[1], default=("", 0))
    if len(files) > 1 and number > 0.9 * sum(files.values()):
        yield (
            f"{largest!r} has {number:,} of {sum(files.values()):,} recordings; if it is no word, give the words with "
            "--names"
        )
