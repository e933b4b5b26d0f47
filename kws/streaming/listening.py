"""Listening: samples as they come in, to events, near misses and the clips kept around both.

    microphone -> 50 ms blocks -> thread that reads ahead -> Listener -> Scorer -> Detector -> events
                                                                      -> NearMisses -> near misses
                                                                      -> ClipKeeper -> WAV files

The thread takes the blocks while a score is computed or the screen is drawn, so that none is lost. It holds at most
READ_AHEAD_S of audio: a computer that is too slow for longer loses samples in the microphone's own buffer, which
counts that (Block.lost).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio import codec
from kws.audio.microphone import BLOCK_S, Block, Microphone
from kws.data.read_ahead import ReadAhead
from kws.streaming.events import Detector, DetectorSettings, Event, Floats
from kws.streaming.kept_clips import ClipKeeper, ClipRequest, KeptClips
from kws.streaming.near_misses import NearMisses
from kws.streaming.scores import Scorer, Scores

READ_AHEAD_S = 5.0


class ChunkResult(NamedTuple):
    """What samples brought. latest: the time of the last score and the (W,) smoothed probabilities then, None
    where there was none. files: of the clips that were kept."""

    latest: tuple[float, Floats] | None
    events: list[Event]
    near_misses: list[Event]
    files: list[Path]


class Listener:
    """Detects words in samples as they come in. clips: where the clips around events and near misses are kept."""

    def __init__(self, scorer: Scorer, settings: DetectorSettings, clips: KeptClips | None = None) -> None:
        self._scorer = scorer
        self._detector = Detector(scorer.classes, scorer.step_s, settings)
        self._near_misses = NearMisses(scorer.classes, scorer.step_s, settings)
        self.words, self.thresholds = self._detector.words, settings.thresholds(self._detector.words)
        """The classes that can be events, and the (W,) threshold of each."""
        self._keeper = ClipKeeper(clips, self._near_misses.delay_s + scorer.step_s) if clips else None

    def push(self, pcm: codec.Pcm) -> ChunkResult:
        """The next samples (n,), at 16 kHz."""
        return self._kept(pcm, self._detect(self._scorer.push(pcm)))

    def finish(self) -> ChunkResult:
        """What is known at the end of the audio. The listener cannot be used after it."""
        found = self._detect(self._scorer.finish())
        found = self._kept(
            np.zeros(0, np.int16), found._replace(near_misses=found.near_misses + self._near_misses.finish())
        )
        return found._replace(files=found.files + (self._keeper.finish() if self._keeper else []))

    def _detect(self, scores: Scores) -> ChunkResult:
        events = self._detector.push(scores)
        latest = (float(scores.times[-1]), self._detector.latest) if len(scores.times) else None
        return ChunkResult(latest, events, self._near_misses.push(scores, events), [])

    def _kept(self, pcm: codec.Pcm, found: ChunkResult) -> ChunkResult:
        """The same with the files of the clips that were cut."""
        if not self._keeper:
            return found
        moments = [ClipRequest(event.word, event.time_s, is_near_miss=False) for event in found.events]
        moments += [ClipRequest(event.word, event.time_s, is_near_miss=True) for event in found.near_misses]
        return found._replace(files=self._keeper.push(pcm, moments))


@contextlib.contextmanager
def recorded_blocks(microphone: Microphone, seconds: float) -> Iterator[Iterator[Block]]:
    """Yields the microphone's blocks at 16 kHz, which a thread reads ahead."""
    reader = ReadAhead(threads=1)
    try:
        blocks = microphone.blocks_16_khz(seconds)
        with contextlib.closing(reader.stream(_unchanged, blocks, depth=round(READ_AHEAD_S / BLOCK_S))) as stream:
            yield stream
    finally:
        reader.close()


def _unchanged(block: Block) -> Block:
    return block
