"""False accepts on valid streams, by which the best checkpoint of a detector is chosen (train.valid_stream).

folder of kws mix: recordings and label tracks -> each rank scores its share of the recordings -> scores of all
-> DET curve, on rank 0 -> false accepts an hour where at most train.valid_stream_miss of the words are missed
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from kws.audio.audio_files import find_audio
from kws.audio.codec import SAMPLE_RATE_HZ, AudioError
from kws.audio.features import Features
from kws.audio.recording_blocks import open_recording
from kws.config import Config
from kws.distributed.ranks import Ranks
from kws.errors import UsageError
from kws.evaluation.evaluate import EvaluationStopped
from kws.evaluation.trained import ScoredNetwork
from kws.streaming import truth
from kws.streaming.counting import RULES
from kws.streaming.curves import Curve, Track, sweep
from kws.streaming.events import PRESETS, words_of
from kws.streaming.mixing.mix import MANIFEST
from kws.streaming.scorers import make_scorer
from kws.streaming.scores import Scores, joined
from kws.streaming.truth import Truth

_SETTINGS = "train.valid_stream"


class StreamFigures(NamedTuple):
    """A network's result on the valid streams: the fewest false accepts an hour at a threshold that misses at most the
    wanted share of the words, and the share missed there. If every threshold misses more, inf and the lowest share of
    any threshold. Compared as a tuple: less is better."""

    false_accepts_per_hour: float
    missed_share: float

    def values(self) -> dict[str, float]:
        """For a line of metrics.jsonl; without the rate where it is infinite."""
        found = {"valid_stream_missed_share": self.missed_share}
        if math.isfinite(self.false_accepts_per_hour):
            found["valid_stream_false_accepts_per_hour"] = self.false_accepts_per_hour
        return found


@dataclasses.dataclass(frozen=True)
class ValidStreams:
    """The recordings of a folder, in order, and the words in them. classes: of the network."""

    recordings: tuple[Path, ...]
    labels: Truth
    classes: Sequence[str]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, classes: Sequence[str], corpus_id: str) -> ValidStreams:
        """Reads the labels. Raises UsageError where there are no recordings or no label of a word of the network, and
        for streams of the train split."""
        if not folder.is_dir():
            raise UsageError(f"{_SETTINGS}: {folder}: no such folder; wanted one made by kws mix from the valid split")
        notes = _manifest_notes(folder, corpus_id)
        recordings = tuple(find_audio([folder]))
        found = truth.read(folder, recordings, classes)
        if not any(found.labels.values()):
            raise UsageError(
                f"{_SETTINGS}: {folder}: no label of {', '.join(words_of(classes))}; wanted streams of them"
            )
        return cls(recordings, found, classes, (*notes, *found.notes))

    def measure(
        self, network: ScoredNetwork, miss: float, ranks: Ranks, should_stop: Callable[[], bool] = lambda: False
    ) -> StreamFigures:
        """The figures of a network, the same on every rank and for any number of ranks. All ranks call it together.

        miss: share of the words that may be missed. `should_stop` is called before every block of audio. Raises
        EvaluationStopped on every rank where it returned True on any.
        """
        was_training = network.network.training
        network.network.eval()
        mine = range(ranks.rank, len(self.recordings), ranks.world_size)
        scored = ranks.on_all(lambda: [self._track(number, network, should_stop) for number in mine])
        network.network.train(was_training)
        parts = ranks.gather(scored)
        if any(track is None for part in parts for track in part):
            raise EvaluationStopped
        world = len(parts)
        tracks = [track for number in range(len(self.recordings)) if (track := parts[number % world][number // world])]
        step_s = make_scorer(network).step_s
        return ranks.on_main(lambda: figures(sweep(tracks, self.classes, step_s, PRESETS["kws"], RULES["kws"]), miss))

    def _track(self, number: int, network: ScoredNetwork, should_stop: Callable[[], bool]) -> Track | None:
        """The scores of a recording; None where `should_stop` returned True."""
        path, parts, samples = self.recordings[number], list[Scores](), 0
        scorer = make_scorer(network)
        try:
            with open_recording(path) as recording:
                for block in recording:
                    if should_stop():
                        return None
                    parts.append(scorer.push(block))
                    samples += len(block)
        except AudioError as error:
            raise UsageError(f"{_SETTINGS}: {path}: {error}") from error
        parts.append(scorer.finish())
        seconds = samples / SAMPLE_RATE_HZ
        return Track(joined(parts), self.labels.spoken(path, seconds), seconds)


def _manifest_notes(folder: Path, corpus_id: str) -> Iterator[str]:
    """Notes on the split and the corpus of the streams, from the manifest of kws mix. Raises UsageError for streams of
    the train split."""
    try:
        corpus = json.loads((folder / MANIFEST).read_bytes())["corpus"]
        split, made_from = corpus["split"], corpus["content_id"]
    except (OSError, ValueError, KeyError, TypeError):  # streams of another tool
        return
    if split == "train":
        raise UsageError(f"{_SETTINGS}: {folder}: streams of the train split; wanted kws mix SHARDS OUT --split valid")
    if split == "test":
        yield f"{folder}: streams of the test split: what is chosen on them cannot be tested on it"
    if made_from != corpus_id:
        yield f"{folder}: streams of another corpus ({made_from[:12]}), whose speakers may be in this one's train split"


def figures(curve: Curve, miss: float) -> StreamFigures:
    """The figures of a curve; miss: the wanted share of missed words."""
    spoken, least = int(curve.spoken.sum()), 1.0
    for false_accepts, _, missed in curve.staircase():
        least = min(least, missed / spoken)
        if missed <= miss * spoken + 1e-9:
            return StreamFigures(false_accepts / curve.hours, missed / spoken)
    return StreamFigures(math.inf, least)


@dataclasses.dataclass(frozen=True)
class NetworkInTraining:
    """The network that is being trained, as a ScoredNetwork."""

    config: Config
    network: nn.Module
    features: Features
    samples: int
    classes: Sequence[str]
