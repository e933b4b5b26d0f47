"""The clips of a split without a wanted word, to measure how many of them a network takes for one.

    foreign words, windows of the noise recordings, windows of the negatives -> an index whose split has only these

Of each kind at most MOST_CLIPS are chosen. Of foreign words the choice does not depend on the shards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from kws.corpus.tasks import SILENCE, UNKNOWN, Definition, Task
from kws.data import negatives as negative_windows
from kws.data import silence
from kws.data.index import Index, Split
from kws.data.negatives import NegativeWindows
from kws.data.selection import TaskSplit, choose_unknown

MOST_CLIPS = 1000
"""Of each kind. Of 1,000 clips of which none is taken for a word, the 95 % interval ends at 0.4 %."""
FOREIGN, NOISE, NEGATIVES = "foreign words", "noise", "negatives"


@dataclasses.dataclass(frozen=True)
class OtherSounds:
    """index: the corpus, whose split has only the chosen clips. task: gives all of them label 0. kinds: the kind of
    each word of the index; "": none of its clips is chosen. available: number of clips of each kind before the choice.
    """

    index: Index
    task: Task
    kinds: tuple[str, ...]
    available: dict[str, int]


def choose_other_sounds(index: Index, split: str, classes: Sequence[str], samples: int) -> OtherSounds | None:
    """Chooses clips, of `samples` samples, of a split of a packed corpus; None where it has none of any kind. classes:
    of the network; all other words of the corpus are foreign."""
    packed = index.split(split)
    foreign = np.array([word not in classes or word in (SILENCE, UNKNOWN) for word in index.words])
    found = {
        FOREIGN: int(packed.cells[:, foreign].sum()),
        NOISE: _num_noise_windows(index, split, samples),
        NEGATIVES: _num_negative_windows(index, split, samples),
    }
    available = {kind: count for kind, count in found.items() if count}
    if not available:
        return None
    chosen = _foreign_clips(packed, foreign, split)
    if NOISE in available:
        count = min(MOST_CLIPS, available[NOISE])
        made = silence.generate_silence(index, packed, count, "noise", samples, "open set")
        chosen = dataclasses.replace(chosen, shards=(*chosen.shards, made.virtual_shard()), silence=made)
    if NEGATIVES in available:
        group, count = index.negatives[split], min(MOST_CLIPS, available[NEGATIVES])
        word = len(index.words) + 1
        windows = NegativeWindows(group, len(chosen), len(chosen.shards), word, samples, count)
        chosen = dataclasses.replace(chosen, shards=(*chosen.shards, *windows.shards()), negatives=windows)
    kinds = (*(FOREIGN if is_foreign else "" for is_foreign in foreign), NOISE, NEGATIVES)
    words = (*index.words, SILENCE, UNKNOWN)
    task = Task(Definition(name="open set", classes=tuple(classes)), tuple(0 if kind else -1 for kind in kinds))
    return OtherSounds(
        dataclasses.replace(index, words=words, splits={**index.splits, split: chosen}), task, kinds, available
    )


def _foreign_clips(packed: Split, foreign: np.ndarray, split: str) -> TaskSplit:
    """The split with at most MOST_CLIPS clips of foreign words."""
    subset, cells = choose_unknown(packed, foreign, MOST_CLIPS, ("open set", split))
    return TaskSplit(packed.name, packed.shards, packed.columns, cells, subset)


def _num_noise_windows(index: Index, split: str, samples: int) -> int:
    """How many windows fit without overlap into the split's parts of the noise recordings."""
    noise = index.splits.get("noise")
    if noise is None or not len(noise):
        return 0
    parts = [silence.split_part(int(length), split) for length in noise.columns["samples"]]
    return sum((part.stop - part.start) // samples for part in parts)


def _num_negative_windows(index: Index, split: str, samples: int) -> int:
    group = index.negatives.get(split)
    return negative_windows.most_evaluated(group, samples) if group is not None and len(group) else 0
