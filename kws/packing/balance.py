"""Moves speakers between splits, so that no word and no split is empty where that can be avoided.

    (unit, word, split, clips), one row each --> words that a split lacks --> units to move: {unit: split}

A unit is what stays together in one split: a speaker, or the file where the speaker is unknown. The rows lie in an
sqlite table, so memory grows with the number of words, not with that of speakers or clips. The result depends on the
set of rows alone, not on their order.
"""

from __future__ import annotations

import collections
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kws.corpus.source import hash_percent

NEEDED = ("train", "valid", "test")
"""In the order in which they are filled: a word with two speakers is in train and valid."""
_WHOLE_SPLIT = ""
"""Stands for all words in the counts: an empty split is worse than a word that is missing in it, unless in train."""
_COST = {
    False: {"train": 16, "valid": 1, "test": 1},
    True: {"train": 8, "valid": 4, "test": 2},
}
"""What a word (False) or everything (True) costs that is empty in a split; a move must lower the sum."""
_CANDIDATES = 200
"""Units that are tried for one word of a split."""


class UnitWord(NamedTuple):
    """The clips of one word by one unit, all of which are in `split`. is_fixed: the unit must stay there."""

    unit: str
    word: str
    split: str
    clips: int
    is_fixed: bool = False


Counts = Mapping[tuple[str, str], int]
"""(word, split) -> number of clips."""


class Shares(NamedTuple):
    """Percentages of the units in valid and test, and the splits into which nothing may be moved."""

    valid: float
    test: float
    closed: Collection[str] = ()

    def open_splits(self) -> list[str]:
        """The splits that are to be filled."""
        percents = {"train": 1.0, "valid": self.valid, "test": self.test}
        return [split for split in NEEDED if percents[split] > 0 and split not in self.closed]

    def range_of(self, split: str) -> tuple[float, float]:
        """The percentages of the hash that belong to a split."""
        bounds = {"valid": (0.0, self.valid), "test": (self.valid, self.valid + self.test)}
        return bounds.get(split, (self.valid + self.test, 100.0))


def find_moves(rows: Iterable[UnitWord], counts: Counts, shares: Shares, database: Path | str) -> dict[str, str]:
    """The units to move, each with its new split.

    `rows`: all words of the units that say a word that a split lacks; other units need not be moved. `counts`: all
    clips, also of other units, and those that are in the corpus already and stay where they are. `database`: a file for
    the table, which the caller removes, or ":memory:".
    """
    table = _Units(rows, counts, shares, database)
    try:
        moves = dict[str, str]()
        while found := table.improve():  # what one word's move frees, another may need
            moves.update(found)
        return moves
    finally:
        table.close()


class _Units:
    """The table of units, and the number of clips of each word in each split."""

    def __init__(self, rows: Iterable[UnitWord], counts: Counts, shares: Shares, database: Path | str) -> None:
        self._shares = shares
        self._counts = collections.Counter(counts)
        for (_, split), clips in counts.items():
            self._counts[_WHOLE_SPLIT, split] += clips
        self._db = sqlite3.connect(database, isolation_level=None)
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; DROP TABLE IF EXISTS units; DROP TABLE IF EXISTS words;"
            "CREATE TABLE units (unit TEXT PRIMARY KEY, split TEXT, clips INTEGER, percent REAL, fixed INTEGER)"
            " WITHOUT ROWID;"
            "CREATE TABLE words (unit TEXT, word TEXT, word_clips INTEGER, PRIMARY KEY (unit, word)) WITHOUT ROWID;"
            "BEGIN"
        )
        for row in rows:
            self._add(row)
        self._db.executescript("CREATE INDEX by_word ON words (word)")

    def _add(self, row: UnitWord) -> None:
        self._db.execute(
            "INSERT INTO units VALUES (?, ?, ?, ?, ?) ON CONFLICT (unit) DO UPDATE SET clips = clips + excluded.clips"
            , (row.unit, row.split, row.clips, hash_percent(row.unit), row.is_fixed),
        )  # fmt: skip
        self._db.execute("INSERT INTO words VALUES (?, ?, ?)", (row.unit, row.word, row.clips))

    def close(self) -> None:
        self._db.close()

    def improve(self) -> dict[str, str]:
        """Moves a unit for every word that lacks one in a split, where that helps. Returns the moves."""
        moves = dict[str, str]()
        words = sorted({word for word, _ in self._counts} - {_WHOLE_SPLIT})
        for split in self._shares.open_splits():
            for word in words:
                unit = None if self._counts[word, split] else self._move_one(word, split)
                if unit is not None:
                    moves[unit] = split
        return moves

    def _move_one(self, word: str, split: str) -> str | None:
        for unit, old, clips in self._candidates(word, split):
            word_clips = dict(self._db.execute("SELECT word, word_clips FROM words WHERE unit = ?", (unit,)).fetchall())
            word_clips[_WHOLE_SPLIT] = clips
            if self._gain(word_clips, old, split) > 0:
                for moved, number in word_clips.items():
                    self._counts[moved, old] -= number
                    self._counts[moved, split] += number
                self._db.execute("UPDATE units SET split = ? WHERE unit = ?", (split, unit))
                return str(unit)
        return None

    def _candidates(self, word: str, split: str) -> Sequence[tuple[str, str, int]]:
        """(unit, split, clips) of units that say the word in another split.

        First those that fit into the split's share of the clips, of these those in splits that have more than their
        share, of these the one whose hash is nearest to the split.
        """
        low, high = self._shares.range_of(split)
        return self._db.execute(
            "SELECT unit, split, clips FROM words JOIN units USING (unit) WHERE word = ? AND split != ? AND NOT fixed"
            " ORDER BY max(clips, ?), split NOT IN (?, ?, ?), max(? - percent, percent - ?, 0), unit LIMIT ?",
            (word, split, max(1.0, self._share_of(split)), *self._overfull(), low, high, _CANDIDATES),
        ).fetchall()  # fmt: skip

    def _share_of(self, split: str) -> float:
        """The number of clips that the split should have."""
        low, high = self._shares.range_of(split)
        return sum(self._counts[_WHOLE_SPLIT, name] for name in NEEDED) * (high - low) / 100

    def _overfull(self) -> list[str]:
        return [split if self._counts[_WHOLE_SPLIT, split] > self._share_of(split) else "" for split in NEEDED]

    def _gain(self, word_clips: Mapping[str, int], old: str, new: str) -> int:
        """By how much a move of a unit with these clips of words lowers the cost of what is empty."""
        gain, open_splits = 0, self._shares.open_splits()
        for word, clips in word_clips.items():
            cost = _COST[word == _WHOLE_SPLIT]
            gain += cost[new] * (self._counts[word, new] == 0)
            gain -= cost[old] * (self._counts[word, old] == clips and old in open_splits)
        return gain
