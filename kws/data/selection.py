"""Applies a task to an index: decides which clips the task uses and which class each has. The only place that does.

    index + task definition -> Selection: an index whose splits have the task's clips only -> plan, reader, evaluation
    with data.negatives: the splits also have the windows of the corpus's negatives, as clips of the class unknown

Of the unknown words a split uses exactly the task's number of clips: those whose hashed names are lowest. That does
not depend on the seed, the audio format or the shards. No column is copied: the subset is stored as its highest hash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.corpus import tasks
from kws.corpus.tasks import SILENCE, SPLITS, UNKNOWN, Definition, Task
from kws.data import negatives as negative_windows
from kws.data import silence
from kws.data.index import Column, Index, Split, count_cells
from kws.data.negatives import NegativeWindows
from kws.data.silence import SilenceClips
from kws.errors import UsageError

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class UnknownSubset:
    """Which clips of the unknown words are used: those with (hash of the name with `key`, row) up to `highest`.

    unknown: which words of the index are unknown, (words,).
    """

    unknown: npt.NDArray[np.bool_]
    key: tuple[counter_rng.Key, ...]
    highest: tuple[np.uint64, int]

    def uses(self, split: Split, rows: Rows) -> npt.NDArray[np.bool_]:
        """Whether each clip is used: in the subset, or of a word that is not unknown."""
        hashes = hash_names(split.columns["name"][rows], self.key)
        return ~self.unknown[split.columns["word"][rows]] | _up_to(self.highest, hashes, rows)


@dataclasses.dataclass(frozen=True)
class TaskSplit(Split):
    """A split as a task uses it: a part of the clips of the unknown words, generated silence, windows of negatives.

    Packed clips keep their ids; silence has the ids after them, windows those after silence. `cells` counts the clips
    that can be drawn; windows are drawn apart from them.
    """

    subset: UnknownSubset | None = None
    silence: SilenceClips | None = None
    negatives: NegativeWindows | None = None

    def __len__(self) -> int:
        made = (self.silence, self.negatives)
        return super().__len__() + sum(len(clips) for clips in made if clips is not None)

    def rows(self, number: int) -> Rows:
        """Returns the ids of the shard's clips that the task uses, and of the silence that is drawn with it."""
        if number >= self.num_packed_shards:
            return np.zeros(0, np.int64)
        rows = super().rows(number)
        rows = rows[self.subset.uses(self, rows)] if self.subset else rows
        return np.concatenate([rows, self.silence.rows(number)]) if self.silence else rows

    def values(self, column: str, rows: npt.ArrayLike) -> Column:
        """Returns the values of a column for clips of any kind (packed, silence, windows), in the shape of `rows`."""
        rows = np.asarray(rows)
        packed = rows < super().__len__()
        if packed.all():
            return super().values(column, rows)
        values = np.empty(rows.shape, self.columns[column].dtype)
        values[packed] = super().values(column, rows[packed])
        windows = rows >= self.negatives.first_row if self.negatives else np.zeros_like(packed)
        for made, chosen in ((self.silence, ~packed & ~windows), (self.negatives, windows)):
            if made is not None and chosen.any():
                values[chosen] = made.values(column, rows[chosen])
        return values

    @property
    def num_packed_shards(self) -> int:
        """Number of the shards that contain packed clips: without the virtual one of silence and those of negatives."""
        made = 0 if self.silence is None else 1
        return len(self.shards) - made - (len(self.negatives.packed.shards) if self.negatives else 0)

    def evaluated_windows(self) -> Rows:
        """Returns the ids of the windows of negatives on which the split is evaluated."""
        return self.negatives.evaluated() if self.negatives else np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True)
class Selection:
    """A corpus as `packed`, and as the `task` uses it: `index`, which has one more word where the task has silence, and
    the word unknown where it has windows of negatives. negatives: their share of the draws of an epoch."""

    packed: Index
    index: Index
    task: Task
    negatives: float = 0.0

    def class_counts(self, split: str) -> list[int]:
        """Returns the number of clips of each class in a split; zeros where the corpus has no such split."""
        labels, found = np.asarray(self.task.class_of), np.zeros(len(self.task.classes), np.int64)
        if split in self.index.splits:
            clips = self.index.splits[split].cells.sum(axis=0).astype(np.int64)
            np.add.at(found, labels[labels >= 0], clips[labels >= 0])
        counts: list[int] = found.tolist()
        return counts

    def split_sizes(self) -> dict[str, int]:
        """Returns the number of clips of each split that has any."""
        return {split: sum(self.class_counts(split)) for split in SPLITS if len(self.index.splits.get(split, ()))}

    def notes(self) -> list[str]:
        """Returns lines for the user: the use of words outside the classes, and sizes other than the official ones."""
        definition = self.task.definition
        parts = [*self._unknown_note(), *self._silence_note(), *self._negatives_note()]
        head = f"{definition.name}: {len(definition.classes)} classes"
        lines = [f"{head}; {', '.join(parts)}"] if parts or definition.name != tasks.WORDS else []
        found = {split: self.split_sizes().get(split, 0) for split in definition.clips}
        if found != definition.clips:
            sizes = ("/".join(f"{count:,}" for count in each.values()) for each in (found, definition.clips))
            lines.append("not the official corpus ({}): {}, official {}".format(definition.corpus, *sizes))
        return [*lines, *self._unused_note()]

    def _unknown_note(self) -> Iterator[str]:
        definition, words = self.task.definition, self.packed.words
        others = [number for number, label in enumerate(self.task.class_of[: len(words)]) if label < 0]
        is_unknown = definition.others == "unknown"
        if is_unknown:
            others = [number for number, word in enumerate(words) if definition.is_other(word)]
        if others or (is_unknown and not self.negatives):
            total, used = (_train_clips(index, others) for index in (self.packed, self.index))
            clips = f"({used:,} of {total:,} clips used)" if is_unknown else f"({total:,} clips)"
            words_are = "1 word is" if len(others) == 1 else f"{len(others)} words are"
            yield f"{words_are} {'unknown' if is_unknown else 'left out'} {clips}"

    def _silence_note(self) -> Iterator[str]:
        wanted = self.task.definition.silence
        if wanted:
            count = self.class_counts("train")[self.task.classes.index(SILENCE)]
            yield f"{count:,} {'windows of noise' if wanted.kind == 'noise' else 'clips of zeros'} are silence"

    def _negatives_note(self) -> Iterator[str]:
        found = {split: windows for split in SPLITS if (windows := self._windows(split))}
        if self.negatives:
            hours = found["train"].seconds / 3600
            evaluated = " and ".join(
                f"{len(windows.evaluated()):,} of {split}" for split, windows in found.items() if split != "train"
            )
            yield (
                f"{self.negatives:.3g} of the draws are windows of {hours:.3g} h of negatives, which are unknown"
                f"{f' (evaluated: {evaluated})' if evaluated else ''}"
            )

    def _windows(self, split: str) -> NegativeWindows | None:
        chosen = self.index.splits.get(split)
        return chosen.negatives if isinstance(chosen, TaskSplit) else None

    def _unused_note(self) -> Iterator[str]:
        """Notes that the corpus has negatives which are not used, and that the class unknown has no clip."""
        definition, packed = self.task.definition, self.packed.negatives
        if packed and not self.negatives:
            hours = sum(negative_windows.seconds(group) for group in packed.values()) / 3600
            yield f"{hours:.3g} h of negatives are not used; --set data.negatives=0.3 draws windows of them"
        if definition.others == "unknown" and not self.negatives:
            label = self.task.classes.index(UNKNOWN)
            if not self.class_counts("train")[label]:
                yield (
                    "the class unknown has no clip in train: the network cannot learn it; pack recordings of other "
                    "words, or long ones without the words with kws pack --negatives FOLDER, and set data.negatives"
                )


def _train_clips(index: Index, words: list[int]) -> int:
    """Returns the number of clips of these words in the train split."""
    return int(index.splits["train"].cells[:, words].sum()) if "train" in index.splits else 0


def apply_task(index: Index, definition: Definition, samples: int, negatives: float = 0.0) -> Selection:
    """Applies a task to a corpus, for clips of `samples` samples. negatives: the share of windows of negatives
    (data.negatives). Raises UsageError where the corpus lacks a word, noise or negatives that the task needs."""
    words = index.words
    if negatives:
        _check_negatives(index, definition)
    if definition.silence:
        if SILENCE in words:
            raise UsageError(
                f"{_silence_setting(definition)}: {index.root} has a word {SILENCE!r} of its own, which cannot be "
                "distinguished from generated silence; pack it under another name, or train without silence"
            )
        words = (*words, SILENCE)
    if negatives and UNKNOWN not in words:
        words = (*words, UNKNOWN)
    task = tasks.resolve(definition, words)
    splits = {name: _task_split(index, split, task, samples) for name, split in index.splits.items()}
    if negatives:
        word = words.index(UNKNOWN)
        splits |= {
            name: _with_windows(split, index.negatives.get(name), word, samples, negatives)
            for name, split in splits.items()
            if name in SPLITS
        }
    return Selection(index, dataclasses.replace(index, words=words, splits=splits), task, negatives)


def _check_negatives(index: Index, definition: Definition) -> None:
    """Raises UsageError where windows of negatives cannot be drawn."""
    if definition.others != "unknown":
        raise UsageError(
            f"data.negatives: the task {definition.name} has no class {UNKNOWN} for them; wanted a task with others = "
            f'"unknown" (see shards/README.md), or --set data.negatives=0'
        )
    if not len(index.negatives.get("train", ())):
        raise UsageError(
            f"data.negatives: {index.root} has no negatives in train; add some: kws pack {index.root} --append "
            "--negatives FOLDER, or --set data.negatives=0"
        )
    for group in index.negatives.values():
        negative_windows.check_plain(group, str(index.root))


def _with_windows(split: Split, packed: Split | None, word: int, samples: int, share: float) -> TaskSplit:
    """Adds the windows of negatives to a split, and a column of `cells` for the word unknown where it is new. An
    evaluation uses as many as make up `share` of its clips, or fewer, so that none overlap."""
    clips = split if isinstance(split, TaskSplit) else TaskSplit(split.name, split.shards, split.columns, split.cells)
    cells = np.pad(clips.cells, ((0, 0), (0, max(0, word + 1 - clips.cells.shape[1]))))
    if packed is None or not len(packed):
        return dataclasses.replace(clips, cells=cells)
    wanted = round(int(cells.sum()) * share / (1.0 - share))
    count = min(wanted, negative_windows.most_evaluated(packed, samples))
    packed = dataclasses.replace(packed, columns={name: np.asarray(column) for name, column in packed.columns.items()})
    windows = NegativeWindows(packed, len(clips), len(clips.shards), word, samples, count)
    cells = np.pad(cells, ((0, len(packed.shards)), (0, 0)))
    return dataclasses.replace(clips, shards=(*clips.shards, *windows.shards()), cells=cells, negatives=windows)


def _silence_setting(definition: Definition) -> str:
    """Returns the setting that requests silence."""
    return "data.silence" if definition.name == tasks.WORDS else f"data.task={definition.name}"


def _task_split(index: Index, split: Split, task: Task, samples: int) -> Split:
    """Returns the split as the task uses it; the split itself where nothing is chosen or generated."""
    definition = task.definition
    unknown = np.array([definition.is_other(word) for word in index.words])
    if split.name not in SPLITS or not (definition.silence or unknown.any()):
        return split
    in_task = np.asarray(task.class_of[: len(index.words)]) >= 0
    cells, subset = np.asarray(split.cells), None
    wanted = int(cells[:, in_task & ~unknown].sum())
    if definition.unknown_share is not None:
        count = tasks.rounded_share(definition.unknown_share, wanted)
        subset, cells = choose_unknown(split, unknown, count, ("unknown", definition.hash_name, split.name))
    chosen = TaskSplit(split.name, split.shards, split.columns, cells, subset)
    if not definition.silence:
        return chosen
    base = wanted if definition.silence.of == "wanted" else int(cells[:, in_task].sum())
    count = tasks.rounded_share(definition.silence.share, base) if split.name in definition.silence.splits else 0
    return _with_silence(index, chosen, count, definition.silence.kind, samples, _silence_setting(definition))


def _with_silence(
    index: Index, split: TaskSplit, count: int, kind: Literal["noise", "zeros"], samples: int, setting: str
) -> TaskSplit:
    """Adds `count` clips of silence to a split, and a column of `cells` for their word."""
    cells = np.pad(split.cells, ((0, 0), (0, 1)))
    if not count:
        return dataclasses.replace(split, cells=cells)
    clips = silence.generate_silence(index, split, count, kind, samples, setting)
    cells = np.pad(cells, ((0, 1), (0, 0)))
    cells[:-1, -1] = np.diff(clips.shares)
    return dataclasses.replace(split, shards=(*split.shards, clips.virtual_shard()), cells=cells, silence=clips)


def choose_unknown(
    split: Split, unknown: npt.NDArray[np.bool_], count: int, key: tuple[counter_rng.Key, ...]
) -> tuple[UnknownSubset | None, Column]:
    """Chooses `count` clips of the `unknown` words (words,): those whose names, hashed with `key`, are lowest.

    Returns the subset, None where all clips are used, and the cells of the clips that remain. Two passes over two
    columns: the first counts the hashes by their highest 16 bits, which gives the group of the last chosen hash; the
    second sorts that group alone.
    """
    if count >= int(split.cells[:, unknown].sum()):
        return None, split.cells
    if not count:
        return UnknownSubset(unknown, key, (np.uint64(0), -1)), np.where(unknown, 0, split.cells)
    sizes = np.zeros(1 << 16, np.int64)
    for _, _, hashes in _unknown_hashes(split, unknown, key):
        sizes += np.bincount(_high_bits(hashes), minlength=len(sizes))
    last_group = int(np.searchsorted(np.cumsum(sizes), count))
    cells, in_group = np.where(unknown, 0, split.cells), list[tuple[Rows, Column, Column]]()
    for rows, words, hashes in _unknown_hashes(split, unknown, key):
        groups = _high_bits(hashes)
        cells += _count_cells(split, rows[groups < last_group], words[groups < last_group])
        at = groups == last_group
        in_group.append((rows[at], words[at], hashes[at]))
    rows, words, hashes = (np.concatenate(parts) for parts in zip(*in_group, strict=True))
    taken = np.argsort(hashes, kind="stable")[: count - int(sizes[:last_group].sum())]  # of equal hashes the first rows
    cells += _count_cells(split, rows[taken], words[taken])
    return UnknownSubset(unknown, key, (hashes[taken[-1]], int(rows[taken[-1]]))), cells


def _unknown_hashes(
    split: Split, unknown: npt.NDArray[np.bool_], key: tuple[counter_rng.Key, ...]
) -> Iterator[tuple[Rows, Column, Column]]:
    """Yields rows, words and hashes of the clips of unknown words, chunk by chunk."""
    start = 0
    for words, names in split.chunks("word", "name"):
        at = np.flatnonzero(unknown[words])
        yield start + at, words[at], hash_names(names[at], key)
        start += len(words)


def _high_bits(hashes: Column) -> Rows:
    """Returns the highest 16 bits of each hash."""
    return (hashes >> np.uint64(48)).astype(np.int64)


def hash_names(names: Column, key: tuple[counter_rng.Key, ...]) -> npt.NDArray[np.uint64]:
    """Hashes the index's name hashes once more, with the key of a task and split: (B,) -> (B,)."""
    return counter_rng.bits(names, 1, *key)[:, 0]


def _up_to(highest: tuple[np.uint64, int], hashes: Column, rows: Rows) -> npt.NDArray[np.bool_]:
    """Whether each (hash, row) is at most `highest`."""
    found: npt.NDArray[np.bool_] = (hashes < highest[0]) | ((hashes == highest[0]) & (rows <= highest[1]))
    return found


def _count_cells(split: Split, rows: Rows, words: Column) -> Column:
    """Counts these clips by shard and word: (shards, words)."""
    starts = np.array([shard.start for shard in split.shards])
    shards = np.searchsorted(starts, rows, side="right") - 1  # the last of shards with one start: the others are empty
    return count_cells(shards, words, *split.cells.shape)
