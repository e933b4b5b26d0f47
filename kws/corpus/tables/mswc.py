"""The Multilingual Spoken Words Corpus (MSWC): LANGUAGE_splits.csv, or _train, _dev and _test.csv, beside clips/WORD/.

    SET,LINK,WORD,VALID,SPEAKER,GENDER -> split, audio, word, whether it was found to be right, speaker

LINK is relative to clips/ and ends with .opus, also where the clips are in the corpus' WAV form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set
from typing import ClassVar

from kws.corpus.tables.csv_table import ReleasedTable
from kws.corpus.tables.table import RawRow

_KEYS = frozenset({"link", "word", "valid", "speaker"})


def is_mswc(names: Set[str]) -> bool:
    """Whether a CSV with these columns (lower case) is one of MSWC's."""
    return names >= _KEYS


@dataclasses.dataclass
class Mswc(ReleasedTable):
    """One of MSWC's CSV files."""

    kind: ClassVar[str] = "MSWC"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._valid = self.header.names.index("valid")
        self.notes[:] = [f"{self.name}: a table of MSWC: rows that are not VALID are left out"]

    def _row(self, line: int, values: Sequence[str], cells: Sequence[str]) -> RawRow:
        row = super()._row(line, values, cells)
        if cells[self._valid].strip().lower() not in ("true", "1"):
            return row._replace(left_out="not VALID")
        return row._replace(speaker="") if row.speaker == "NA" else row
