"""Which tables a folder (or an archive) holds, by their names and contents; and a table given by its path."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kws.corpus.tables import csv_table
from kws.corpus.tables.csv_table import CsvTable
from kws.corpus.tables.place import Folder, Place
from kws.corpus.tables.table import Table

_DEPTH = 4
"""Folders are searched so deep; not below a folder that holds a table."""


@dataclasses.dataclass
class Found:
    """The tables to read, together, and notes: which they are, which others are not read and why."""

    tables: list[Table] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def is_table(path: Path) -> bool:
    """Whether a file that is given as a source is read as a table."""
    return path.is_file() and path.suffix.lower() in csv_table.ENDINGS


def open_table(path: Path) -> list[Table]:
    """The table in a file given by its path. Raises UsageError where it is none."""
    place = Folder(path.parent)
    return [CsvTable(place, path.name)]


def find(place: Place, wanted: Sequence[str] = ()) -> Found:
    """The tables of a place. wanted: names or paths of those to read (`--table`); empty: all that belong together.

    Raises UsageError for a name that is not there, and for several tables that do not belong together.
    """
    return Found()
