"""Recordings that are read one after the other: each as blocks, then its length, hash and remarks; and what was left
out."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kws.audio import recording_blocks
from kws.audio.audio_files import SkippedFile
from kws.audio.codec import SAMPLE_RATE_HZ, AudioError, Pcm
from kws.streaming.thresholds import AudioDigest


class RecordingReader:
    """One recording while it is read: its samples are counted and hashed.

    show: called with the seconds read so far, and those of the whole recording, or None. The other attributes are of
    the whole recording once it is read: seconds, sha256 of its 16 kHz samples, remarks (kws.audio.remarks), rate and
    channels of the file.
    """

    def __init__(self, path: Path, show: Callable[[float, float | None], None] = lambda done, whole: None) -> None:
        self.path, self._show = path, show
        self.seconds, self.rate_hz, self.channels = 0.0, 0, 0
        self.sha256 = ""
        self.remarks: tuple[str, ...] = ()

    def blocks(self) -> Iterator[Pcm]:
        """Its blocks. Raises as kws.audio.recording_blocks."""
        samples, digest = 0, AudioDigest()
        with recording_blocks.open_recording(self.path) as recording:
            self.rate_hz, self.channels = recording.rate_hz, recording.channels
            for block in recording:
                digest.update(block)
                yield block
                samples += len(block)
                self.seconds = samples / SAMPLE_RATE_HZ
                self._show(self.seconds, recording.duration_s)
            self.remarks, self.sha256 = recording.remarks, digest.hexdigest()

    def notes(self) -> list[str]:
        """Its remarks, and its format where training clips may have better sound."""
        if self.rate_hz >= SAMPLE_RATE_HZ:
            return list(self.remarks)
        channels = f"{self.channels} channel{'s' * (self.channels > 1)}"
        low = f"{self.rate_hz / 1000:g} kHz, {channels}: converted to 16 kHz mono"
        return [*self.remarks, f"{low}; no sound above {self.rate_hz / 2000:g} kHz, which training clips may have"]


class Recordings:
    """Reads recordings one after the other. left_out: those that could not be read, and why. `show`: called with the
    recordings read so far, with a fraction of the present one, their number, and the present one's name."""

    def __init__(self, paths: Sequence[Path], show: Callable[..., None] = lambda done, total, label: None) -> None:
        self.paths, self._show = paths, show
        self.left_out = list[SkippedFile]()
        self._notes = collections.Counter[str]()

    def read(self, use: Callable[[RecordingReader], None]) -> None:
        """Calls `use` with each recording; it reads the blocks. A recording whose blocks raise is left out."""
        for place, path in enumerate(self.paths):
            reader = RecordingReader(path, self._progress(place))
            try:
                use(reader)
            except AudioError as error:
                self.left_out.append(SkippedFile(path, str(error)))
            except OSError as error:
                self.left_out.append(SkippedFile(path, error.strerror or str(error)))
            else:
                self._notes.update(reader.notes())

    def notes(self) -> list[str]:
        """A line for each kind of remark, with the number of recordings."""
        return [f"{count} recording{'s' * (count > 1)}: {text}" for text, count in self._notes.items()]

    def _progress(self, place: int) -> Callable[[float, float | None], None]:
        def show(done: float, whole: float | None) -> None:
            part = min(1.0, done / whole) if whole else 0.0
            self._show(place + part, len(self.paths), self.paths[place].name)

        return show
