from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kws.audio import codec
from kws.streaming.events import DetectorSettings
from kws.streaming.kept_clips import KeptClips
from kws.streaming.listening import ChunkResult, Listener
from kws.streaming.scores import Scores, no_scores
from tests.conftest import tone


class LevelScorer:
    """The class `loud` has a probability of the level of the last 0.1 s, full scale being 1."""

    classes, step_s = ("silence", "loud"), 0.1

    def __init__(self) -> None:
        self._waiting, self._count = np.zeros(0, np.int16), 0

    def push(self, pcm: codec.Pcm) -> Scores:
        self._waiting = np.concatenate((self._waiting, pcm))
        count = len(self._waiting) // 1600
        parts, self._waiting = self._waiting[: count * 1600].reshape(-1, 1600), self._waiting[count * 1600 :]
        level = np.abs(parts / 32768).max(axis=1, initial=0.0)
        times = (self._count + 1 + np.arange(count)) / 10
        self._count += count
        return Scores(times, np.stack([1 - level, level], axis=1).astype(np.float32))

    def finish(self) -> Scores:
        return no_scores(2)


def recording() -> codec.Pcm:
    """Nine seconds of silence with a loud tone at 2 s, a softer one at 5 s and a loud one at the end."""
    pcm = np.zeros(144_000, np.int16)
    for start_s, level in ((2.0, 0.9), (5.0, 0.4), (8.7, 0.9)):
        at = round(start_s * 16_000)
        pcm[at : at + 4800] = tone(400, 4800, level)
    return pcm


def listen(folder: Path, chunk: int) -> list[ChunkResult]:
    settings = DetectorSettings(0.7, smooth_ms=200)
    listener, pcm = Listener(LevelScorer(), settings, KeptClips(folder, "me", "T", 16_000)), recording()
    return [*(listener.push(pcm[at : at + chunk]) for at in range(0, len(pcm), chunk)), listener.finish()]


@pytest.mark.parametrize("chunk", [800, 777, 16_000])
def test_events_near_misses_and_kept_clips_do_not_depend_on_chunks(chunk: int, tmp_path: Path) -> None:
    found = listen(tmp_path, chunk)
    events = [event for part in found for event in part.events]
    near_misses = [event for part in found for event in part.near_misses]
    assert [event.time_s for event in events] == [2.2, 8.9]
    assert [event.time_s for event in near_misses] == [5.2]
    kept = {path.relative_to(tmp_path).as_posix() for part in found for path in part.files}
    assert kept == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.wav")}
    assert kept == {
        "loud/me_nohash_T-00002200.wav", "loud/me_nohash_T-00008900.wav",
        "_near_misses_/loud/me_nohash_T-00005200.wav",
    }  # fmt: skip


def test_the_latest_scores_are_those_of_the_words_smoothed(tmp_path: Path) -> None:
    parts = [part.latest for part in listen(tmp_path, 800) if part.latest]
    assert len(parts) == 90
    time_s, means = parts[20]
    assert time_s == pytest.approx(2.1)
    assert means[0] == pytest.approx(0.45, abs=0.02)
