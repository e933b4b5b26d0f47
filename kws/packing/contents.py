"""What a packed corpus holds, as tables for the terminal or as one dict for JSON output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from kws import counter_rng, metrics
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.corpus.tasks import SPLITS
from kws.data.clip_lengths import ClipLengths, auto_excerpt
from kws.data.index import Index, Split
from kws.data.plan import Plan, PlanSettings
from kws.data.selection import Selection
from kws.packing import split_notes as split_notes_of

GOOD_SHUFFLE = 0.98
_BATCH, _BATCHES, _MIN_BATCHES = 64, 512, 8


def corpus_facts(index: Index) -> dict[str, Any]:
    """Of each split: clips, seconds, known speakers, clips by unknown ones, shards, imbalance, quality of the shuffle;
    of each word: clips by split; how many recordings are longer or shorter than the clips of a run with the default
    settings; notes on the splits."""
    return {
        "content_id": index.content_id,
        "splits": {name: _split_facts(index, split) for name, split in index.splits.items()},
        **(
            {"negatives": {name: _split_facts(index, group) for name, group in index.negatives.items()}}
            if index.negatives
            else {}
        ),
        "words": {
            word: {name: int(counts[number]) for name, counts in _counts(index).items()}
            for number, word in enumerate(index.words)
        },
        "clip_lengths": ClipLengths.of(index, auto_excerpt(index)).facts(),
        "notes": split_notes(index),
    }


def split_notes(index: Index) -> list[str]:
    """What is doubtful about the splits: people who may be in train and test, too few clips, words that lack some."""
    counts, sizes = _counts(index), {name: len(split) for name, split in index.splits.items()}
    unknown = sum(_unknown(index, split) for name, split in index.splits.items() if name != "noise")
    cells = {(index.words[at], name) for name, clips in counts.items() for at in np.flatnonzero(clips)}
    notes = [
        split_notes_of.unknown_speakers(unknown, sum(size for name, size in sizes.items() if name != "noise")),
        split_notes_of.words_lacking(cells, sizes, "evaluation cannot measure them there"),
        *metrics.few_clips_notes(sizes),
    ]
    return [note for note in notes if note]


def _unknown(index: Index, split: Split) -> int:
    """Number of clips by unknown speakers."""
    number = np.flatnonzero(index.speakers[:1] == b"")  # the names are sorted, so that the empty one is first
    return sum(int((speakers == 0).sum()) for (speakers,) in split.chunks("speaker")) if len(number) else 0


def words_table(index: Index) -> Table:
    """A row for each word: clips in each split, and the word's share of the training clips."""
    counts = _counts(index)
    table = Table("word", *counts, "of train", title=f"{index.root}: clips")
    for column in table.columns[1:]:
        column.justify = "right"
    total = max(1, int(counts["train"].sum())) if "train" in counts else 1
    for number, word in enumerate(index.words):
        share = f"{counts['train'][number] / total:.1%}" if "train" in counts else ""
        table.add_row(word, *(f"{values[number]:,}" for values in counts.values()), share)
    table.add_section()
    table.add_row("all", *(f"{values.sum():,}" for values in counts.values()), "")
    return table


def task_facts(selection: Selection) -> dict[str, Any]:
    """A task on a corpus: its definition, clips of each class and split, and the expected numbers on the official
    corpus."""
    definition = selection.task.definition
    counts = {split: selection.class_counts(split) for split in selection.split_sizes()}
    return {
        "content_id": selection.packed.content_id,
        "task": definition.tree(),
        "classes": {
            name: {split: clips[label] for split, clips in counts.items()}
            for label, name in enumerate(definition.classes)
        },
        "clips": selection.split_sizes(),
        "official": dict(definition.clips),
        "notes": selection.notes(),
    }


def task_table(selection: Selection) -> Table:
    """A row for each class, in the order of the labels: clips in each split. Below: the sums, and those of the official
    corpus."""
    definition, sizes = selection.task.definition, selection.split_sizes()
    table = Table("class", *sizes, title=f"{selection.packed.root}: clips by task {definition.name}")
    for column in table.columns[1:]:
        column.justify = "right"
    counts = [selection.class_counts(split) for split in sizes]
    for label, name in enumerate(definition.classes):
        table.add_row(name, *(f"{clips[label]:,}" for clips in counts))
    table.add_section()
    table.add_row("all", *(f"{clips:,}" for clips in sizes.values()))
    if definition.clips:
        table.add_row(definition.corpus, *(f"{definition.clips.get(split, 0):,}" for split in sizes))
    return table


def splits_table(index: Index) -> Table:
    """A row for each split: clips, speakers, length, shards, bytes, imbalance. Fits 80 columns."""
    table = Table("split", "clips", "speakers", "hours", "clip s", "shards", "MB", "imbalance",
                  title=f"corpus {index.content_id}")  # fmt: skip
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for name, split in index.splits.items():
        row = _split_facts(index, split)
        table.add_row(
            name, f"{row['clips']:,}", _speakers_text(row), f"{row['seconds'] / 3600:.2f}",
            "-".join(dict.fromkeys(f"{seconds:.3g}" for seconds in row["clip_seconds"])), f"{row['shards']:,}",
            f"{row['bytes'] / 1e6:,.0f}", f"{row['imbalance']:.2f}" if row["imbalance"] else "",
        )  # fmt: skip
    table.caption = "clip s: shortest-median-longest; imbalance: largest word / smallest; speakers: + and unknown ones"
    return table


def negatives_lines(index: Index) -> list[str]:
    """How many negatives each split has, in one line; none where the corpus has no negatives."""
    parts = [
        f"{row['seconds'] / 3600:.2f} h {split} ({row['clips']:,} recordings or pieces of ten minutes)"
        for split, group in index.negatives.items()
        for row in [_split_facts(index, group)]
    ]
    return [f"negatives: {', '.join(parts)}"] if parts else []


def shuffle_lines(index: Index) -> list[str]:
    """How well the shards are shuffled, in one line; none where that cannot be measured."""
    quality = shuffle_quality(index.splits["train"]) if "train" in index.splits else None
    if quality is None:
        return []
    advice = "" if quality >= GOOD_SHUFFLE else (
        f": below {GOOD_SHUFFLE:.0%}, the shards are not shuffled; pack their clips again with kws pack, or raise "
        "data.window"
    )  # fmt: skip
    return [f"batches of train hold {quality:.1%} of the class entropy of an ideal shuffle{advice}"]


def length_lines(index: Index) -> list[str]:
    """The clip length of a run with the default settings, and how many recordings are longer or shorter."""
    found = ClipLengths.of(index, auto_excerpt(index))
    return found.lines() if found.clips else []


def shuffle_quality(split: Split) -> float | None:
    """Class entropy of the batches that a sampling plan draws from these shards, divided by that of an ideal shuffle.

    About 1 where the shards are shuffled, less where clips of a word lie together. Measured on full batches of a plan
    with one lane, evenly spaced over an epoch; more lanes only mix better. None for fewer than a few batches, or a
    single word.
    """
    plan = Plan(split, range(split.cells.shape[1]), PlanSettings("natural", 1, _BATCH, 0), 0) if len(split) else None
    full = len(split) // _BATCH
    if plan is None or full < _MIN_BATCHES:
        return None
    steps = np.unique(np.linspace(0, full - 1, _BATCHES).astype(np.int64)).tolist()
    counts = [_word_counts(split, plan.slot(step, 0).clips) for step in steps]
    ideal = _ideal_counts(split)
    return float(_entropy(np.array(counts)).mean() / _entropy(ideal).mean()) if _entropy(ideal).any() else None


def _word_counts(split: Split, clips: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.bincount(split.columns["word"][clips], minlength=split.cells.shape[1])


def _ideal_counts(split: Split) -> np.ndarray[Any, Any]:
    """Word counts of batches drawn from all clips at random: (batches, words)."""
    sizes = split.cells.sum(axis=0).astype(np.int64)
    rng = counter_rng.generator("inspect", "ideal")
    counts: np.ndarray[Any, Any] = rng.multivariate_hypergeometric(sizes, _BATCH, size=_BATCHES, method="marginals")
    return counts


def _entropy(counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Entropy of the words of each batch, in nats: (batches, words) -> (batches,)."""
    shares = counts / counts.sum(axis=1, keepdims=True)
    entropy: np.ndarray[Any, Any] = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return entropy


def _counts(index: Index) -> dict[str, np.ndarray[Any, Any]]:
    """Clips of each word, by split, without noise."""
    return {name: split.cells.sum(axis=0) for name, split in index.splits.items() if name != "noise"}


def _speakers_text(row: Mapping[str, Any]) -> str:
    """The number of speakers; a + stands for unknown ones."""
    if row["speakers"] or not row["clips"]:
        return f"{row['speakers']:,}" + "+" * bool(row["clips_by_unknown"])
    return "unknown"


def _split_facts(index: Index, split: Split) -> dict[str, Any]:
    seconds = split.columns["samples"] / SAMPLE_RATE_HZ
    unknown = _unknown(index, split)
    present = split.cells.sum(axis=0)
    present = present[present > 0]
    return {
        "clips": len(split),
        "speakers": len(np.unique(split.columns["speaker"])) - bool(unknown),
        "clips_by_unknown": unknown if split.name in SPLITS else 0,
        "seconds": round(float(seconds.sum()), 1),
        "clip_seconds": [round(float(f(seconds)), 2) for f in (np.min, np.median, np.max)] if len(split) else [],
        "shards": len(split.shards),
        "bytes": sum(shard.bytes for shard in split.shards),
        "mixedness": shuffle_quality(split) if split.name in SPLITS else None,
        "imbalance": round(float(present.max() / present.min()), 2) if split.name in SPLITS and len(present) else None,
    }
