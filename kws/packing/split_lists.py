"""Compares the lists of splits with the recordings that were decoded."""

from __future__ import annotations

from collections.abc import Callable

from kws.corpus.source_reader import Findings
from kws.errors import UsageError
from kws.packing.journal import Journal


def check(found: Findings, journal: Journal, is_in_part: Callable[[str], bool], is_whole: bool) -> list[str]:
    """Completes entries without an ending, and returns a note for each list with recordings that are absent.

    `is_in_part`: whether the recording of that name is packed. is_whole: whether all are. Raises UsageError for a list
    of which nothing is there: its recordings would all be trained on.
    """
    notes = []
    journal.index_names()
    for listed in found.lists:
        absent = []
        for at, name in enumerate(listed.names):
            if is_in_part(name) and not journal.has_name(name):
                whole = journal.name_without_ending(name)
                if whole:
                    found.listed[whole] = listed.split
                else:
                    absent.append(at)
        expected = sum(map(is_in_part, listed.names))
        if absent and is_whole and len(absent) == expected:
            raise UsageError(
                f"{listed.where}: none of its {expected:,} entries is a recording of the sources; found "
                f"{listed.entries[absent[0]]!r}, wanted names such as {journal.example()!r}; correct or remove the list"
            )
        if absent:
            notes.append(
                f"{listed.where}: splits are given for {len(absent):,} clips that are not in the sources, such as "
                f"{listed.entries[absent[0]]!r}"
            )
    return notes
