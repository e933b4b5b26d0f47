"""The false accepts and missed words of an evaluation as sound: small FLAC files for the report, read again from the
recordings."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kws import files
from kws.audio import codec, recording_blocks
from kws.streaming.spot_evaluation import SpotEvaluation

MOST = 24
"""Clips of a kind that are kept: the most probable false accepts, and missed words spread over the set."""
_AROUND_S, _AFTER_S = 0.5, 0.3
"""Before and after a missed word; after an event."""


class Moment(NamedTuple):
    """A false accept or a missed word. start_s, end_s: of the part of the recording that is kept. probability: of the
    event; None for a missed word."""

    kind: Literal["false accept", "miss"]
    path: Path
    word: str
    time_s: float
    start_s: float
    end_s: float
    probability: float | None


def chosen_moments(evaluation: SpotEvaluation, window_s: float) -> list[Moment]:
    """The moments that are kept: of false accepts the last `window_s` seconds and a little more."""
    false_accepts, misses = list[Moment](), list[Moment]()
    for item, outcome in zip(evaluation.data.recordings, evaluation.outcomes, strict=True):
        for event in outcome.false_accepts:
            around = (event.time_s - window_s - _AFTER_S, event.time_s + _AFTER_S)
            false_accepts.append(
                Moment("false accept", item.path, event.word, event.time_s, *around, event.probability)
            )
        for word in outcome.misses:
            around = (word.start_s - _AROUND_S, word.end_s + _AROUND_S)
            misses.append(Moment("miss", item.path, word.word, word.start_s, *around, None))
    false_accepts.sort(key=lambda moment: -(moment.probability or 0.0))
    step = max(1, -(-len(misses) // MOST))
    return [*false_accepts[:MOST], *misses[::step]]


def write_clips(folder: Path, moments: Sequence[Moment]) -> None:
    """Writes the moments' sound and clips.json into a new folder. Recordings that can no longer be read give none."""
    folder.mkdir(parents=True, exist_ok=True)
    sounds = dict[int, codec.Pcm]()
    for path in dict.fromkeys(moment.path for moment in moments):
        places = [place for place, moment in enumerate(moments) if moment.path == path]
        spans = [(moments[place].start_s, moments[place].end_s) for place in places]
        with contextlib.suppress(OSError, codec.AudioError):
            sounds |= dict(zip(places, recording_blocks.read_spans(path, spans), strict=True))
    rows = list[dict[str, Any]]()
    for place, moment in enumerate(moments):
        if len(sounds.get(place, ())):
            name = f"{place:02d}.flac"
            files.write_bytes(folder / name, codec.flac_bytes(sounds[place]))
            rows.append({**moment._asdict(), "path": str(moment.path), "clip": name})
    files.write_json(folder / "clips.json", rows)
