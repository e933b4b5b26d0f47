"""A recording of any length in blocks of 16 kHz mono int16 samples, in flat memory: together what codec.decode returns.

    file -> where its sound is (containers.py) -> libsndfile, or a running ffmpeg -> blocks of floats
         -> [a first pass, where the whole file decides how it is read] -> one channel -> 16 kHz (resampler.py) -> int16

A first pass is needed where two channels may cancel out, and where floats may be in the range of integers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]

from kws.audio import codec, containers, ffmpeg, formats, remarks
from kws.audio.formats import AudioFormat
from kws.audio.resampler import Resampler
from kws.audio.sound_bytes import FileBytes

BLOCK_S = 2.0
_UNKNOWN_FRAMES = 1 << 48
"""libsndfile states at least so many samples where a header does not count them."""
Floats = npt.NDArray[np.float32]


class _Source(Protocol):
    """An open file whose samples can be read several times from the beginning.

    is_pcm: it is 16 kHz mono PCM16, and its blocks are int16 (n,); all others are float32 (n, channels).
    """

    rate_hz: int
    channels: int
    format: str
    frames: int | None
    is_pcm: bool
    has_floats: bool
    remarks: tuple[str, ...]

    def blocks(self) -> Iterator[npt.NDArray[Any]]: ...


class _Survey(NamedTuple):
    """How a file is read, as the whole of it decides: the divisor of its samples; whether only the first of its two
    channels is used; and the remarks about that."""

    scale: float = 1.0
    first_only: bool = False
    remarks: tuple[str, ...] = ()


class RecordingBlocks:
    """An open recording. Iterating gives its blocks of about BLOCK_S seconds, int16 (n,), from the beginning each time.

    Iterating raises AudioError for what codec.decode refuses; where the fault is within the file, after the blocks
    before it.
    """

    def __init__(self, source: _Source, found: tuple[str, ...]) -> None:
        codec.check_rate(source.rate_hz)
        self._source = source
        self.rate_hz, self.channels = source.rate_hz, source.channels
        self.source = codec.source_text(source.rate_hz, source.channels, source.format)
        """The format of the file, as Decoded.source."""
        self.duration_s = None if source.frames is None else source.frames / source.rate_hz
        """In seconds, as the file's header states it; None where it does not."""
        self._survey = _survey(source)
        self._found = (*found, *remarks.of_rate(source.rate_hz), *self._survey.remarks)
        self._beyond = self._samples = 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks about the recording (kws.audio.remarks); of what was clipped, after all blocks were read."""
        return (*self._found, *self._source.remarks, *remarks.of_beyond(self._beyond, self._samples))

    def __iter__(self) -> Iterator[codec.Pcm]:
        count = 0
        for block in self._source.blocks() if self._source.is_pcm else self._converted():
            count += len(block)
            if len(block):
                yield block
        if count == 0:
            raise codec.AudioError("no samples")

    def _converted(self) -> Iterator[codec.Pcm]:
        resampler = Resampler(self.rate_hz)
        self._beyond = self._samples = 0
        for block in self._source.blocks():
            mono = self._mono(block)
            self._beyond, self._samples = self._beyond + remarks.count_beyond(mono), self._samples + len(mono)
            yield resampler.push(mono)
        yield resampler.finish()

    def _mono(self, block: Floats) -> Floats:
        scaled = block if self._survey.scale == 1.0 else block / np.float32(self._survey.scale)
        one: Floats = scaled[:, 0] if self._survey.first_only or self.channels == 1 else scaled.mean(axis=1)
        return one


@contextlib.contextmanager
def open_recording(path: Path) -> Iterator[RecordingBlocks]:
    """A recording of any format that codec.decode reads. Raises AudioError for what it refuses, as far as the header,
    and for stereo and float files the samples, show it; OSError where the file cannot be read."""
    with path.open("rb") as file:
        if not file.seekable():
            raise codec.AudioError("not a file but a pipe; wanted a file, or raw samples through - (kws spot --help)")
        sound = containers.locate(FileBytes(file))
        if sound.missing:
            raise codec.AudioError(f"ends early: {sound.missing}")
        yield RecordingBlocks(_open_source(path, sound.file_of(file)), sound.remarks)


def read_spans(path: Path, spans: Sequence[tuple[float, float]]) -> list[codec.Pcm]:
    """The samples from each start to end in seconds, cut off at the ends of the recording; in flat memory, and equal to
    those that open_recording gives. Raises as it does."""
    places = [(max(0, round(start * codec.SAMPLE_RATE_HZ)), round(end * codec.SAMPLE_RATE_HZ)) for start, end in spans]
    parts: list[list[codec.Pcm]] = [[] for _ in spans]
    last, at = max((end for _, end in places), default=0), 0
    with open_recording(path) as recording:
        for block in recording:
            for part, (start, end) in zip(parts, places, strict=True):
                if start < at + len(block) and end > at:
                    part.append(block[max(0, start - at) : end - at].copy())
            at += len(block)
            if at >= last:
                break
    return [np.concatenate(part) if part else np.zeros(0, np.int16) for part in parts]


# --- files ------------------------------------------------------------------------------------------------------------


def _open_source(path: Path, view: IO[bytes]) -> _Source:
    try:
        return _SoundFileSource(view)
    except codec.UnreadableError as error:
        view.seek(0)
        return _FfmpegSource(path, codec.ffmpeg_format(view.read(formats.HEAD_BYTES), error))


class _SoundFileSource:
    """A file that libsndfile reads. It is opened again for each pass, since an MP3 must not be sought in."""

    remarks: tuple[str, ...] = ()

    def __init__(self, view: IO[bytes]) -> None:
        self._view = view
        with codec.open_sound(view) as sound:
            self._describe(sound)

    def _describe(self, sound: Any) -> None:
        self.rate_hz, self.channels, self.format = sound.samplerate, sound.channels, codec.format_name(sound)
        self.frames = sound.frames if sound.frames < _UNKNOWN_FRAMES else None
        self.is_pcm = sound.subtype == "PCM_16" and (self.channels, self.rate_hz) == (1, codec.SAMPLE_RATE_HZ)
        self.has_floats = sound.subtype in ("FLOAT", "DOUBLE")

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        size, kind, done = round(BLOCK_S * self.rate_hz), "int16" if self.is_pcm else "float32", 0
        try:
            with codec.open_sound(self._view, sequential=True) as sound:
                while len(block := sound.read(size, dtype=kind, always_2d=not self.is_pcm)):
                    done += len(block)
                    yield block
        except (soundfile.SoundFileError, RuntimeError) as error:
            where = f"damaged after {done / self.rate_hz:.1f} s"
            raise codec.AudioError(f"{where} ({codec.reason(error)})") from error
        if self.frames is not None and done < self.frames:
            raise codec.AudioError(f"ends early: {done} of {self.frames} samples")


class _FfmpegSource:
    """A file that ffmpeg reads, as it runs."""

    is_pcm, has_floats = False, False
    frames: int | None = None

    def __init__(self, path: Path, form: AudioFormat) -> None:
        self._path, self._form, self.format = path, form, form.name
        self.remarks: tuple[str, ...] = (remarks.FFMPEG_INSTEAD if form.by_soundfile else remarks.FFMPEG,)
        with self._stream() as first:
            self.rate_hz, self.channels = first.rate_hz, first.channels

    def blocks(self) -> Iterator[Floats]:
        with self._stream() as running:
            reported = yield from running.blocks
        if reported and remarks.FFMPEG_ERRORS not in self.remarks:
            self.remarks = (*self.remarks, remarks.FFMPEG_ERRORS)

    @contextlib.contextmanager
    def _stream(self) -> Iterator[ffmpeg.Stream]:
        try:
            with ffmpeg.stream(self._path, self._form, BLOCK_S) as running:
                yield running
        except ffmpeg.FfmpegError as error:
            raise codec.AudioError(f"{self._form.name}: {error}") from error


def _survey(source: _Source) -> _Survey:
    """Reads the whole file where that decides how it is read: see remarks.full_scale and remarks.mono."""
    if not source.has_floats and source.channels != 2:
        return _Survey()
    peak, integers, energies = 0.0, True, np.zeros(3)
    for block in source.blocks():
        if source.has_floats:
            codec.check_finite(block)
            peak, integers = max(peak, float(np.abs(block).max())), integers and bool((block == np.rint(block)).all())
        if source.channels == 2:
            energies += [float(np.dot(one, one)) for one in (block[:, 0], block[:, 1], block.mean(axis=1))]
    scale = remarks.full_scale(peak, integers) if source.has_floats else 1.0
    found = (remarks.SCALED,) if scale != 1.0 else ()
    if source.channels != 2:
        return _Survey(scale, remarks=found)
    first_only, more = remarks.of_channels(*energies)
    return _Survey(scale, first_only, (*found, *more))
