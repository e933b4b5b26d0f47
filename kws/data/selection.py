"""A task applied to an index: which clips it takes, and which class each is. The one place where that is decided.

    index + definition -> Selection: the index again, its splits with the task's clips alone -> plan, reader, evaluation

Of the words that count as unknown a split takes exactly so many clips as the task says, those whose names hash lowest:
whatever the seed, the format and the shards. No column is copied; what is kept of the choice is the last hash taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.corpus import tasks
from kws.corpus.tasks import SILENCE, SPLITS, Definition, Task
from kws.data import silence
from kws.data.index import Column, Index, Split, count_cells
from kws.data.silence import Made
from kws.errors import UsageError

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Clips of `others` (words,): those whose name, hashed with `key`, is below `last` (hash, row), or is it."""

    others: npt.NDArray[np.bool_]
    key: tuple[counter_rng.Key, ...]
    last: tuple[np.uint64, int]

    def takes(self, split: Split, rows: Rows) -> npt.NDArray[np.bool_]:
        """Whether these clips are in it, or are of no such word."""
        hashes = _hash(split.columns["name"][rows], self.key)
        return ~self.others[split.columns["word"][rows]] | _up_to(self.last, hashes, rows)


@dataclasses.dataclass(frozen=True)
class Selected(Split):
    """A split of which a plan draws only the chosen clips, and the silence that is made for it; ids stay as they were,
    silence behind all. `cells` counts what can be drawn."""

    choice: Choice | None = None
    made: Made | None = None

    def __len__(self) -> int:
        return super().__len__() + (len(self.made) if self.made else 0)

    def rows(self, number: int) -> Rows:
        """The shard's clips that are chosen, and its share of silence."""
        if self.made and number == self.made.shard:
            return np.zeros(0, np.int64)
        rows = super().rows(number)
        rows = rows[self.choice.takes(self, rows)] if self.choice else rows
        return np.concatenate([rows, self.made.rows(number)]) if self.made else rows

    def values(self, column: str, rows: npt.ArrayLike) -> Column:
        """Of packed clips from the column, of silence as it was made."""
        rows = np.asarray(rows)
        packed = rows < super().__len__()
        if self.made is None or packed.all():
            return super().values(column, rows)
        found = self.made.values(column, np.maximum(rows, self.made.first))
        found[packed] = super().values(column, rows[packed])
        return found


@dataclasses.dataclass(frozen=True)
class Selection:
    """A corpus as it was `packed`, and its `index` by the task: one more word where the task makes silence."""

    packed: Index
    index: Index
    task: Task

    def counts(self, split: str) -> list[int]:
        """Clips of each class in a split; none where the corpus has no such split."""
        labels, found = np.asarray(self.task.class_of), np.zeros(len(self.task.classes), np.int64)
        if split in self.index.splits:
            clips = self.index.splits[split].cells.sum(axis=0).astype(np.int64)
            np.add.at(found, labels[labels >= 0], clips[labels >= 0])
        counts: list[int] = found.tolist()
        return counts

    def sizes(self) -> dict[str, int]:
        """Clips of each split that has any."""
        return {split: sum(self.counts(split)) for split in SPLITS if len(self.index.splits.get(split, ()))}

    def lines(self) -> list[str]:
        """What must be said of it: what became of words outside the classes, and whether its sizes are the official."""
        definition = self.task.definition
        parts = [*self._others(), *self._silence()]
        head = f"{definition.name}: {len(definition.classes)} classes"
        lines = [f"{head}; {', '.join(parts)}"] if parts or definition.name != tasks.WORDS else []
        found = {split: self.sizes().get(split, 0) for split in definition.clips}
        if found != definition.clips:
            sizes = ("/".join(f"{count:,}" for count in each.values()) for each in (found, definition.clips))
            lines.append("not the official corpus ({}): {}, official {}".format(definition.corpus, *sizes))
        return lines

    def _others(self) -> Iterator[str]:
        definition, words = self.task.definition, self.packed.words
        others = [number for number, label in enumerate(self.task.class_of[: len(words)]) if label < 0]
        is_unknown = definition.others == "unknown"
        if is_unknown:
            others = [number for number, word in enumerate(words) if definition.is_other(word)]
        if others or is_unknown:
            there, taken = (_clips_of(index, others) for index in (self.packed, self.index))
            clips = f"({taken:,} of {there:,} clips chosen)" if is_unknown else f"({there:,} clips)"
            words_are = "1 word is" if len(others) == 1 else f"{len(others)} words are"
            yield f"{words_are} {'unknown' if is_unknown else 'left out'} {clips}"

    def _silence(self) -> Iterator[str]:
        made = self.task.definition.silence
        if made:
            count = self.counts("train")[self.task.classes.index(SILENCE)]
            yield f"{count:,} {'windows of noise' if made.kind == 'noise' else 'clips of zeros'} are silence"


def _clips_of(index: Index, words: list[int]) -> int:
    """In the train split."""
    return int(index.splits["train"].cells[:, words].sum()) if "train" in index.splits else 0


# --- applying -------------------------------------------------------------------------------------------------


def apply(index: Index, definition: Definition, samples: int) -> Selection:
    """The task on a corpus, for clips of `samples` samples. Raises UsageError where the corpus lacks what it needs."""
    words = index.words
    if definition.silence:
        if SILENCE in words:
            raise UsageError(
                f"{_asked(definition)}: {index.root} has the word {SILENCE!r} itself, which the class made of noise "
                "would be mixed up with; pack it under another name, or do without"
            )
        words = (*words, SILENCE)
    task = tasks.resolve(definition, words)
    splits = {name: _select(index, split, task, samples) for name, split in index.splits.items()}
    return Selection(index, dataclasses.replace(index, words=words, splits=splits), task)


def _asked(definition: Definition) -> str:
    """The setting that asks for silence."""
    return "data.silence" if definition.name == tasks.WORDS else f"data.task={definition.name}"


def _select(index: Index, split: Split, task: Task, samples: int) -> Split:
    definition = task.definition
    others = np.array([definition.is_other(word) for word in index.words])
    if split.name not in SPLITS or not (definition.silence or others.any()):
        return split
    inside = np.asarray(task.class_of[: len(index.words)]) >= 0
    cells, choice = np.asarray(split.cells), None
    wanted = int(cells[:, inside & ~others].sum())
    if definition.unknown_share is not None:
        count = tasks.part(definition.unknown_share, wanted)
        choice, cells = choose(split, others, count, ("unknown", definition.name, split.name))
    chosen = Selected(split.name, split.shards, split.columns, cells, choice)
    if not definition.silence:
        return chosen
    base = wanted if definition.silence.of == "wanted" else int(cells[:, inside].sum())
    count = tasks.part(definition.silence.share, base) if split.name in definition.silence.splits else 0
    return _with_silence(index, chosen, count, definition.silence.kind, samples, _asked(definition))


def _with_silence(
    index: Index, split: Selected, count: int, kind: Literal["noise", "zeros"], samples: int, asked: str
) -> Selected:
    """The split with so many clips of silence, which are of one more word."""
    cells = np.pad(split.cells, ((0, 0), (0, 1)))
    if not count:
        return dataclasses.replace(split, cells=cells)
    made = silence.make(index, split, count, kind, samples, asked)
    cells = np.pad(cells, ((0, 1), (0, 0)))
    cells[:-1, -1] = np.diff(made.shares)
    return dataclasses.replace(split, shards=(*split.shards, made.entry()), cells=cells, made=made)


def choose(
    split: Split, others: npt.NDArray[np.bool_], count: int, key: tuple[counter_rng.Key, ...]
) -> tuple[Choice | None, Column]:
    """`count` clips of the words that are `others`, and the cells that are left; no choice where there are no more.

    Goes over the columns twice: how many hashes begin with which bits; then which is the last, in the group it is in.
    """
    if count >= int(split.cells[:, others].sum()):
        return None, split.cells
    if not count:
        return Choice(others, key, (np.uint64(0), -1)), np.where(others, 0, split.cells)
    sizes = np.zeros(1 << 16, np.int64)
    for _, _, hashes in _hashed(split, others, key):
        sizes += np.bincount(_group(hashes), minlength=len(sizes))
    group = int(np.searchsorted(np.cumsum(sizes), count))
    cells, near = np.where(others, 0, split.cells), list[tuple[Rows, Column, Column]]()
    for rows, words, hashes in _hashed(split, others, key):
        groups = _group(hashes)
        cells += _cells(split, rows[groups < group], words[groups < group])
        at = groups == group
        near.append((rows[at], words[at], hashes[at]))
    rows, words, hashes = (np.concatenate(parts) for parts in zip(*near, strict=True))
    taken = np.argsort(hashes, kind="stable")[: count - int(sizes[:group].sum())]  # of equal ones the first rows
    cells += _cells(split, rows[taken], words[taken])
    return Choice(others, key, (hashes[taken[-1]], int(rows[taken[-1]]))), cells


def _hashed(
    split: Split, others: npt.NDArray[np.bool_], key: tuple[counter_rng.Key, ...]
) -> Iterator[tuple[Rows, Column, Column]]:
    """Rows, words and hashes of the clips of other words, piece by piece."""
    start = 0
    for words, names in split.pieces("word", "name"):
        at = np.flatnonzero(others[words])
        yield start + at, words[at], _hash(names[at], key)
        start += len(words)


def _group(hashes: Column) -> Rows:
    """Of a hash, its highest 16 bits."""
    return (hashes >> np.uint64(48)).astype(np.int64)


def _hash(names: Column, key: tuple[counter_rng.Key, ...]) -> npt.NDArray[np.uint64]:
    return counter_rng.bits(names, 1, *key)[:, 0]


def _up_to(last: tuple[np.uint64, int], hashes: Column, rows: Rows) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = (hashes < last[0]) | ((hashes == last[0]) & (rows <= last[1]))
    return found


def _cells(split: Split, rows: Rows, words: Column) -> Column:
    """These clips, counted: (shards, words)."""
    starts = np.array([shard.start for shard in split.shards])
    shards = np.searchsorted(starts, rows, side="right") - 1  # not shards without clips: the next starts there too
    return count_cells(shards, words, *split.cells.shape)
