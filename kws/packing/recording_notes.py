"""The notes of a packing about recordings: known ones, duplicates, remarks of the decoder, similar words."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence

from kws.audio.remarks import NO_SOUND
from kws.corpus import left_out
from kws.errors import UsageError
from kws.packing import publish
from kws.packing.journal import Journal


def of_known(known: Sequence[str], elsewhere: Sequence[str]) -> Iterator[str]:
    """Counts the recordings that the corpus has already, and those of them that are in another split there."""
    for clips, what in (
        (known, "recordings are in the corpus already ({}): not packed again"),
        (elsewhere, "of them are in another split there ({}): they stay in it; to move them, pack a new corpus"),
    ):
        examples = ", ".join(clips[:3]) + (", ..." if clips[3:] else "")
        if clips:
            yield f"{len(clips):,} {what.format(examples)}"


def of_duplicates(journal: Journal) -> list[str]:
    """Counts recordings that came twice. Raises UsageError for different ones of one name."""
    counts, examples = collections.Counter[tuple[str, str]](), dict[tuple[str, str], str]()
    for origin, name, first, is_equal in journal.duplicates():
        if not is_equal:
            raise UsageError(
                f"{origin}: {name} has the name of another recording, which is in {first}; rename one of them"
            )
        counts[origin, first] += 1
        examples.setdefault((origin, first), name)
    return [
        f"{origin}: {examples[origin, first]}{f' and {count - 1:,} more' if count > 1 else ''}: the same recording is "
        f"in {first}, packed once"
        for (origin, first), count in counts.items()
    ]


def of_remarks(journal: Journal) -> list[str]:
    """Counts what was fixed or looks implausible, a line for each kind, and lists each recording in a file."""
    notes = list[str]()
    for remark, (count, names) in sorted(journal.remarks().items()):
        clips = "1 recording" if count == 1 else f"{count:,} recordings"
        where = (
            f"such as {', '.join(names)}; all in index/{publish.REMARKS}" if count > len(names) else "; ".join(names)
        )
        advice = "; packed under its word: remove the files if that is wrong" * (remark in NO_SOUND)
        notes.append(f"{clips}: {remark}{advice} ({where})")
    with (journal.folder / publish.REMARKS).open("w", encoding="utf-8") as listing:
        listing.write(left_out.REMARKS_HEADER)
        listing.writelines(left_out.row(*remarked) for remarked in journal.remarked())
    return notes


def of_similar_words(words: Sequence[str]) -> Iterator[str]:
    """Names words that differ in upper and lower case only: they are different classes, perhaps by mistake."""

    def folded(word: str) -> str:
        return word.casefold().strip()

    groups = itertools.groupby(sorted(words, key=lambda word: (folded(word), word)), folded)
    for group in (list(similar) for _, similar in groups):
        if len(group) > 1:
            yield f"{' and '.join(map(repr, group))} are {len(group)} words; rename one if they are the same"
