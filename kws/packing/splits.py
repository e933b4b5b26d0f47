"""Which clip is in which split: by name, by the lists of the sources, else by the hash of the speaker.

    recordings in the journal -> `SplitRule.split_of`, clip by clip -> `balance_splits`, speaker by speaker

The first of these that applies decides: noise; --valid-speakers and --test-speakers; lists or a table's column; with
--append, the split in which the corpus has the speaker already; the hash of the speaker (of the file's name, where the
speaker is unknown). Splits by hash are then balanced over the words (kws/packing/balance.py).
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from kws.corpus.recording import NEGATIVES_FOLDER, NOISE_FOLDER, to_nfc
from kws.corpus.source import split_by_hash, split_key
from kws.corpus.source_reader import Findings
from kws.data.index import NEGATIVES, Index
from kws.errors import UsageError
from kws.packing import balance
from kws.packing.journal import Journal

Percents = tuple[float | None, float | None]
"""Shares of the speakers in the splits valid and test; None: not given."""
OFFICIAL_PERCENT = 10.0
_EXAMPLES = 12
"""Speakers that a message lists."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How clips are to be divided into splits.

    percents: see Percents; used where the sources name no splits. valid_speakers, test_speakers: these speakers are in
    that split. Then it holds no others, unless its percentage is given too. Raises UsageError for a speaker in both.
    """

    percents: Percents = (None, None)
    valid_speakers: tuple[str, ...] = ()
    test_speakers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if both := sorted({*self.valid_speakers} & {*self.test_speakers}):
            raise UsageError(
                f"--valid-speakers and --test-speakers: both name {_listed(both)}; a speaker is in one split only"
            )

    @property
    def named(self) -> dict[str, str]:
        """Speaker -> split, of the speakers given by name."""
        return dict.fromkeys(self.valid_speakers, "valid") | dict.fromkeys(self.test_speakers, "test")

    @property
    def shares(self) -> balance.Shares:
        """The shares of the hash, and the splits that only hold speakers given by name."""
        valid, test = (OFFICIAL_PERCENT if percent is None else percent for percent in self.percents)
        given = zip(("valid", "test"), (self.valid_speakers, self.test_speakers), self.percents, strict=True)
        return balance.Shares(valid, test, frozenset(split for split, names, share in given if names and share is None))


def read_speakers(given: str) -> tuple[str, ...]:
    """The speakers of a file with one a line, or of a comma-separated list. Raises UsageError where there is none."""
    path = Path(given)
    text = path.read_text(encoding="utf-8-sig", errors="replace").split("\n") if path.is_file() else given.split(",")
    found = tuple(dict.fromkeys(to_nfc(line.strip()) for line in text if line.strip()))
    if not found:
        raise UsageError(f"{given!r} names no speaker; wanted names between commas, or a file with one a line")
    return found


class SplitRule:
    """The split of each clip, before splits are balanced.

    `found`: the splits that the sources give; `base`: the corpus that clips are added to.
    """

    def __init__(self, options: SplitOptions, found: Findings, base: Index | None) -> None:
        self.options, self._found = options, found
        self._named, self._shares = options.named, options.shares
        self._old_speakers = _OldSpeakers(base) if base else None
        self._old_split = functools.lru_cache(1 << 16)(self._old_speakers.split_of if self._old_speakers else _nowhere)
        self._contradicted = dict[str, str]()

    def split_of(self, name: str, word: str, speaker: str, given: str) -> str:
        """The split of a clip, or the group of negatives (kws.data.index.GROUPS). speaker: "" if unknown. given: by its
        source; "": not."""
        if word == NOISE_FOLDER:
            return "noise"
        if word == NEGATIVES_FOLDER:
            return NEGATIVES[given]
        given = self._found.listed.get(name, given)
        if speaker in self._named:
            if given not in ("", self._named[speaker]):
                self._contradicted[speaker] = given  # an exception would not pass through sqlite
            return self._named[speaker]
        if self._found.gives_splits:
            return given or "train"
        old = self._old_split(speaker)
        if old is not None:
            return old
        hashed = split_by_hash(split_key(name, speaker), self._shares.valid, self._shares.test)
        return "train" if hashed in self._shares.closed else hashed

    def is_fixed(self, speaker: str) -> bool:
        """Whether the speaker was put into its split by name, or is in the corpus already."""
        return speaker in self._named or self._old_split(speaker) is not None

    def check_named(self, journal: Journal, is_whole: bool) -> list[str]:
        """Raises UsageError where speakers given by name have no recordings or are in another split. Returns notes.

        is_whole: all recordings were seen, not only a part of them.
        """
        if self._contradicted:
            given = ", ".join(f"{speaker} in {split}" for speaker, split in sorted(self._contradicted.items()))
            raise UsageError(
                f"the lists of the sources have {given}, --valid-speakers and --test-speakers another split; change "
                "one of them"
            )
        if not self._named:
            return []
        for speaker, split in self._named.items():
            old = self._old_split(speaker)
            if old not in (None, split):
                raise UsageError(
                    f"--{split}-speakers {speaker}: is in {old} of the corpus, where --append leaves it; pack all "
                    "sources into a new folder to move it"
                )
        there = set(journal.speakers()) - {""}
        absent = [name for name in self._named if name not in there and self._old_split(name) is None]
        if absent and not is_whole:
            return [f"no recording of this part is by {_listed(absent)}"]
        if absent:
            raise UsageError(self._no_such_speaker(absent, sorted(there)))
        return []

    def _no_such_speaker(self, absent: Sequence[str], there: Sequence[str]) -> str:
        which = " ".join(f"--{split}-speakers" for split in ("valid", "test") if self._has(split, absent))
        near = [match for name in absent for match in difflib.get_close_matches(name, there, 1)]
        found = f"; did you mean {_listed(near)}?" if near else f"; speakers there: {_listed(there) or 'none is known'}"
        return f"{which}: no recording is by {_listed(absent)}{found}"

    def _has(self, split: str, names: Collection[str]) -> bool:
        return any(self._named[name] == split for name in names)


def balance_splits(journal: Journal, rule: SplitRule, base: Index | None) -> dict[str, str]:
    """Moves speakers (files, where they are unknown) so that no word and no split is empty where that can be avoided.

    Returns what was moved, and to which split.
    """
    moves, seen, shares = dict[str, str](), set[str](), rule.options.shares
    while True:
        counts = collections.Counter(journal.count_cells()) + collections.Counter(base_cells(base))
        lacking = {word for word, _ in counts if not all(counts[word, split] for split in shares.open_splits())}
        if lacking <= seen:  # a move may have cost another word its last clip in a split
            return moves
        found = _find_moves(journal, rule, sorted(lacking), counts)
        journal.move_units(split_key, found)
        moves |= found
        seen |= lacking


def _find_moves(
    journal: Journal, rule: SplitRule, lacking: Sequence[str], counts: Mapping[tuple[str, str], int]
) -> dict[str, str]:
    rows = (
        balance.UnitWord(unit, word, split, clips, rule.is_fixed(speaker))
        for unit, word, split, clips, speaker in journal.units(split_key, lacking)
    )
    database = journal.folder / "units"
    try:
        return balance.find_moves(rows, counts, rule.options.shares, database)
    finally:
        database.unlink(missing_ok=True)


def base_cells(base: Index | None) -> dict[tuple[str, str], int]:
    """(word, split) -> clips of the corpus that clips are added to."""
    if base is None:
        return {}
    counts = {name: split.cells.sum(axis=0) for name, split in base.splits.items() if name != "noise"}
    return {
        (word, name): int(clips[number])
        for name, clips in counts.items() for number, word in enumerate(base.words) if clips[number]
    }  # fmt: skip


class _OldSpeakers:
    """The split in which a corpus has a speaker."""

    def __init__(self, base: Index) -> None:
        self._names, self._splits = base.speakers, [name for name in base.splits if name != "noise"]
        self._bits = np.zeros(len(self._names), np.uint8)
        for number, name in enumerate(self._splits):
            for (speakers,) in base.splits[name].chunks("speaker"):
                self._bits[np.unique(speakers)] |= np.uint8(1 << number)

    def split_of(self, speaker: str) -> str | None:
        """None for an unknown or a new speaker, and for one that is in several splits."""
        name = speaker.encode()
        at = int(np.searchsorted(self._names, name)) if speaker else len(self._names)
        if at == len(self._names) or self._names[at] != name:
            return None
        return next((split for number, split in enumerate(self._splits) if self._bits[at] == 1 << number), None)


def _nowhere(speaker: str) -> str | None:
    """The split of a speaker in a corpus that is new."""
    return None


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names):,} in all)" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more
