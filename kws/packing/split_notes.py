"""The notes of pack, index and inspect about splits: how they were assigned, which words they lack, how small they
are, and whether test may hold people of training."""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator, Mapping, Sequence

from kws import metrics
from kws.corpus.recording import NOISE_FOLDER
from kws.data.index import Index
from kws.packing import splits
from kws.packing.balance import NEEDED, Shares
from kws.packing.journal import Journal

HOW_SPEAKERS_ARE_KNOWN = "files named SPEAKER_nohash_N, --names '{word}_{speaker}_{}', or a table's speaker column"
_SHARED_PEOPLE = (
    "the same people may be in train and test, so that accuracy on new people will be lower than what is measured"
)
_OFF_POINTS = 5.0
"""Percentage points by which the clips' shares may differ from the wanted ones before it is noted."""
_LARGE = 0.2
"""A speaker with more than this share of the clips is named as the reason."""
_EXAMPLES = 3
_MANY_WORDS = 10


def of_packing(
    journal: Journal, base: Index | None, options: splits.SplitOptions, by_hash: bool, is_part: bool
) -> Iterator[str]:
    """The notes about the splits of a packing.

    by_hash: the sources give no splits. is_part: only a part of the recordings is packed.
    """
    unknown, new = journal.count_unknown_speakers(), sum(journal.count_cells().values())
    sizes = {split: journal.count(split) + (len(base.splits.get(split, ())) if base else 0) for split in NEEDED}
    if by_hash:
        yield _by_hash(options, unknown == new, is_part)
    if note := unknown_speakers(unknown, new, by_hash):
        yield note
    for split, advice in (("valid", "training needs one; give splits"), ("test", "evaluate with --split valid")):
        if not sizes[split]:
            yield f"the {split} split has no clips: {advice}, or pack more speakers"
    if is_part:  # the whole is not known
        return
    if by_hash and not base and (note := uneven_shares(sizes, options.shares, journal.largest_speaker())):
        yield note
    cells = {*journal.count_cells(), *splits.base_cells(base)}
    if note := words_lacking(cells, sizes, _advice(by_hash, unknown == new, bool(options.named))):
        yield note
    yield from metrics.few_clips_notes(sizes)


def _by_hash(options: splits.SplitOptions, by_file: bool, is_part: bool) -> str:
    shares = options.shares
    percents = f"{100 - shares.valid - shares.test:g}/{shares.valid:g}/{shares.test:g} %"
    how = "by file" if by_file else "by the hash of the speaker"
    named = f"; by name: {len(options.named):,} of the speakers" if options.named else ""
    part = "; not balanced over the words, as --part packs only a part of them" if is_part else ""
    return f"no splits are given: split {how}, {percents}{named}{part}"


def _advice(by_hash: bool, by_file: bool, by_name: bool) -> str:
    if not by_hash:
        return "give other splits, or record more"
    if by_name:
        return "name speakers who say them too, or record more"
    return f"each word needs three {'recordings' if by_file else 'speakers'} or more; record more, or give splits"


def moved(moves: Mapping[str, str], speakers: Collection[str]) -> str:
    """What was moved for the sake of words that a split lacked; `speakers`: all that are known."""
    num_speakers = sum(unit in speakers for unit in moves)
    counts = [(num_speakers, "speaker"), (len(moves) - num_speakers, "file")]
    what = " and ".join(f"{count:,} {kind}{'s' * (count > 1)}" for count, kind in counts if count)
    examples = ", ".join(f"{unit} to {moves[unit]}" for unit in sorted(moves)[:_EXAMPLES])
    more = ", ..." if len(moves) > _EXAMPLES else ""
    return f"{what} moved ({examples}{more}): by the hash alone, words would be missing in splits"


def without_split(journal: Journal) -> Iterator[str]:
    """How many clips have no split beside others of a table or pattern, which have one each, train too."""
    if without := journal.count_without_given_split():
        yield f"no split is given for {without:,} clips: used for training"


def of_words(journal: Journal, base: Index | None) -> Iterator[str]:
    """That there is only one word, or that most words have one recording: the words were probably not understood."""
    files = collections.Counter[str]()
    for (word, split), count in journal.count_cells().items():
        files[word] += count * (split != "noise")
    words = [word for word, count in files.items() if count and word != NOISE_FOLDER]
    single = sum(files[word] == 1 for word in words)
    if base:
        return
    if len(words) == 1:
        yield f"{words[0]!r} is the only word; a network needs two classes; if it is no word: --names (docs/data.md)"
    elif len(words) >= _MANY_WORDS and single > len(words) / 2:
        yield (
            f"{single:,} of {len(words):,} words have a single recording, such as {min(words)!r}; if "
            "these are no words: --names (docs/data.md)"
        )


def unknown_speakers(unknown: int, clips: int, by_hash: bool = False) -> str | None:
    """That speakers are unknown, and what follows; None where all are known.

    by_hash: splits were made by hash, and so by file for these clips.
    """
    if not unknown:
        return None
    how = " are split by file" if by_hash else ""
    if unknown == clips:
        return f"no speakers are known ({HOW_SPEAKERS_ARE_KNOWN}): {_SHARED_PEOPLE}"
    return (
        f"the speakers of {unknown:,} of {clips:,} clips are unknown ({HOW_SPEAKERS_ARE_KNOWN})"
        f"{', which' + how if how else ''}: {_SHARED_PEOPLE}"
    )


def words_lacking(cells: Collection[tuple[str, str]], split_sizes: Mapping[str, int], advice: str) -> str | None:
    """Which words a split with clips lacks; `cells`: (word, split) of all clips; None where there is no such word."""
    filled = [split for split in NEEDED if split_sizes.get(split, 0)]
    lacking = {
        word: missing
        for word in sorted({word for word, _ in cells})
        if (missing := [split for split in filled if (word, split) not in cells])
    }
    if not lacking:
        return None
    lacks = [f"{word!r} in {', '.join(missing)}" for word, missing in lacking.items()]
    more = f", and {len(lacks) - _EXAMPLES:,} more words" if len(lacks) > _EXAMPLES else ""
    return f"no clips of {', '.join(lacks[:_EXAMPLES])}{more}: {advice}"


def uneven_shares(sizes: Mapping[str, int], shares: Shares, largest: tuple[str, int]) -> str | None:
    """That the splits' shares of the clips differ from the wanted percentages, and why.

    largest: the speaker with most clips, and their number; 0 where none is known.
    """
    total, (speaker, clips) = sum(sizes.values()), largest
    found = [100 * sizes[split] / max(1, total) for split in NEEDED]
    wanted = [100 - shares.valid - shares.test, shares.valid, shares.test]
    if shares.closed or all(abs(one - other) <= _OFF_POINTS for one, other in zip(found, wanted, strict=True)):
        return None
    why = f"; {speaker} alone has {clips:,} of {total:,}" if clips > _LARGE * total else ""
    return f"the splits hold {_slashed(found)} % of the clips{why}; to choose, use --valid-speakers, --test-speakers"


def _slashed(percents: Sequence[float]) -> str:
    return "/".join(f"{percent:.0f}" if percent >= 1 or percent == 0 else f"{percent:.1g}" for percent in percents)
