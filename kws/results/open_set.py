"""The open-set figure of an evaluation (`open_set` in eval/SPLIT.json) as lines and as cells of a table."""

from __future__ import annotations

from kws.results.formats import number
from kws.results.records import Row

EXPLANATION = (
    "Taken for a word: the share of sounds without a word of the task for which the probability of some word reaches "
    "the threshold, with its 95 % interval. Words missed: the share of the words' own clips that stay below it."
)


def has_open_set(result: Row) -> bool:
    """Whether an evaluation has the figure; those of older versions have none."""
    found = result.get("open_set")
    return isinstance(found, dict) and isinstance(found.get("thresholds"), list) and bool(found.get("words"))


def open_set_columns(result: Row) -> list[str]:
    """The heads of the table's columns."""
    found = result["open_set"]
    return ["threshold", "words missed", *(_head(sound) for sound in found["sounds"])]


def _head(sound: Row) -> str:
    """foreign words (1,000 of 6,931)"""
    of = "" if sound["of"] == sound["n"] else f" of {number(sound['of'], ',')}"
    return f"{sound['sound']} ({number(sound['n'], ',')}{of})"


def open_set_cells(result: Row) -> list[list[str]]:
    """The rows of the table: a threshold, the words missed, and what share of each sound is taken for a word."""
    found = result["open_set"]
    return [
        [f"{threshold:g}", _share(found["words"], "missed", at), *(_share(s, "taken", at) for s in found["sounds"])]
        for at, threshold in enumerate(found["thresholds"])
    ]


def _share(row: Row, key: str, at: int) -> str:
    """2.1 % (1.4 to 3.2)"""
    if row[key][at] is None:
        return "-"
    low, high = (100.0 * end for end in row["interval95"][at])
    return f"{number(row[key][at], '.1%')} ({low:.1f} to {high:.1f})"


def silence_line(result: Row) -> str:
    """The word that is most probable for digital silence."""
    found = result["open_set"]["digital_silence"]
    return f"The most probable word for digital silence: {found['word']}, {number(found['probability'], '.1%')}"
