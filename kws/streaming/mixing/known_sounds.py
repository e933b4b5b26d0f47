"""Recordings of background sound that the corpus has too: which part of them a stream of a split may contain.

    samples of a recording -> a recording of the corpus has as many? -> hash of its samples -> the part that may be used

A clip of a word may not be used. Of a noise recording each split uses a part of its own (kws/data/silence.py), and
negatives (kws/data/negatives.py) are used only by their own split, so that no training audio is in a stream of the test
split. Of negatives that were packed in pieces the first piece is compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kws.audio import codec
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.corpus import negatives
from kws.data.index import Index, Split
from kws.data.silence import NOISE_PARTS

Part = tuple[float, float]
"""Start and end of the part that may be used, as fractions of the recording."""
WHOLE, NOTHING = (0.0, 1.0), (0.0, 0.0)
_ROUNDING = 2
"""Samples by which the length that a header states may differ from that of the decoded recording."""


class KnownSounds:
    """The recordings of a corpus, for streams of a split."""

    def __init__(self, index: Index, split: str) -> None:
        self._groups = [
            (group, NOISE_PARTS[split] if name == "noise" else NOTHING)
            for name, group in index.splits.items()
            if len(group)
        ]
        self._groups += [
            (group, WHOLE if name == split else NOTHING) for name, group in index.negatives.items() if len(group)
        ]
        self._lengths = np.unique(np.concatenate([np.zeros(0, np.int64), *map(_lengths, self._splits())]))

    def part(self, path: Path, seconds: float) -> Part:
        """The part of a recording of that duration that may be used. Raises codec.AudioError where it cannot be
        decoded, and OSError where it cannot be read."""
        span = negatives.spans(seconds)[0]
        samples = round((span[1] - span[0] if span else seconds) * SAMPLE_RATE_HZ)
        first, last = np.searchsorted(self._lengths, (samples - _ROUNDING, samples + _ROUNDING + 1))
        if first == last:
            return WHOLE
        if span:
            with path.open("rb") as file:
                pcm = codec.decode_span(file, *span)
        else:
            pcm = codec.decode(path.read_bytes())
        sound = np.uint64(codec.pcm_hash(pcm))
        return next((part for group, part in self._groups if _has(group, sound)), WHOLE)

    def _splits(self) -> list[Split]:
        return [group for group, _ in self._groups]


def _lengths(group: Split) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.unique(np.concatenate([np.unique(samples) for (samples,) in group.chunks("samples")])).astype(np.int64)


def _has(group: Split, sound: np.uint64) -> bool:
    return any(bool((sounds == sound).any()) for (sounds,) in group.chunks("sound"))
