"""Keeps the clip around an event or a near miss of continuous audio as a WAV file, in folders that `kws pack` reads.

    samples -> RecentSound: the last seconds
    event at t -> of the audio from t - clip - 0.5 s to t + 0.5 s, the loudest part as long as a clip
               -> DIR/WORD/SPEAKER_nohash_STARTED-MS.wav, a near miss in DIR/_near_misses_/WORD/

The loudest part is that of training (kws/data/excerpt.py), so that the word is in its middle. Names hold the time at
which listening started and the milliseconds since then: no two are equal, in whatever folder a clip is put later.
"""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio import codec
from kws.corpus.recording import NEAR_MISS_FOLDER
from kws.data.excerpt import Excerpt
from kws.errors import UsageError, cannot_write, filename_in_error
from kws.files import write_bytes

_AROUND_S = 0.5
"""Audio before the earliest clip and after the event that may be part of the clip."""


@dataclasses.dataclass(frozen=True)
class KeptClips:
    """Where clips are kept: below `folder`, of `speaker`, as long as `samples`. started: the time in their names."""

    folder: Path
    speaker: str
    started: str
    samples: int

    @property
    def after(self) -> int:
        """Samples after an event that must have come before its clip can be cut."""
        return round(_AROUND_S * codec.SAMPLE_RATE_HZ)

    @property
    def before(self) -> int:
        """Samples before an event that its clip is cut from."""
        return self.samples + self.after

    def path(self, moment: ClipRequest) -> Path:
        """The file of a clip."""
        folder = self.folder / NEAR_MISS_FOLDER if moment.is_near_miss else self.folder
        return folder / moment.word / f"{self.speaker}_nohash_{self.started}-{round(moment.time_s * 1000):08d}.wav"

    def make_folder(self) -> None:
        """Raises UsageError where the folder cannot be made."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(cannot_write(self.folder, error, "give --keep another folder")) from error

    def write(self, moment: ClipRequest, around: codec.Pcm) -> Path:
        """Writes the loudest part of the audio around a moment. Raises OSError, which names the file."""
        excerpt, path = Excerpt(self.samples), self.path(moment)
        start = excerpt.start(around)
        with filename_in_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, codec.wav_bytes(around[start : start + self.samples]))
        return path


class ClipRequest(NamedTuple):
    """What a clip is kept for: the word, the time in seconds since listening started, and whether it was no event."""

    word: str
    time_s: float
    is_near_miss: bool


class ClipKeeper:
    """Keeps clips of the audio that is pushed. `oldest_s`: how long after its time a moment may be added."""

    def __init__(self, clips: KeptClips, oldest_s: float) -> None:
        self._clips = clips
        self._recent = RecentSound(clips.before + clips.after + round(oldest_s * codec.SAMPLE_RATE_HZ))
        self._waiting: collections.deque[ClipRequest] = collections.deque()

    def push(self, pcm: codec.Pcm, moments: list[ClipRequest]) -> list[Path]:
        """Takes the next samples and the moments found in them; returns the files that were written."""
        self._recent.push(pcm)
        self._waiting.extend(moments)
        files = self._write(self._recent.end - self._clips.after)
        self._recent.drop_old()
        return files

    def finish(self) -> list[Path]:
        """Writes the clips for which audio was awaited."""
        return self._write(self._recent.end)

    def _write(self, until: int) -> list[Path]:
        """Writes the clips of moments up to sample `until`."""
        ready, waiting = list[ClipRequest](), collections.deque[ClipRequest]()
        for moment in self._waiting:
            (ready if _sample(moment) <= until else waiting).append(moment)
        self._waiting = waiting
        return [self._clips.write(moment, self._around(moment)) for moment in ready]

    def _around(self, moment: ClipRequest) -> codec.Pcm:
        at = _sample(moment)
        return self._recent.part(at - self._clips.before, at + self._clips.after)


def _sample(moment: ClipRequest) -> int:
    return round(moment.time_s * codec.SAMPLE_RATE_HZ)


class RecentSound:
    """The samples pushed last. end: the number of all that were pushed."""

    def __init__(self, most: int) -> None:
        self._most, self._pcm, self.end = most, np.zeros(0, np.int16), 0

    def push(self, pcm: codec.Pcm) -> None:
        """Appends samples (n,)."""
        self._pcm = np.concatenate((self._pcm, pcm))
        self.end += len(pcm)

    def drop_old(self) -> None:
        """Keeps the last `most` samples."""
        self._pcm = self._pcm[-self._most :]

    def part(self, start: int, end: int) -> codec.Pcm:
        """The samples from `start` to `end` of the recording, as far as they are still there."""
        first = self.end - len(self._pcm)
        return self._pcm[max(0, start - first) : max(0, end - first)]
