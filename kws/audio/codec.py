"""Encoded audio (bytes) <-> 16 kHz mono int16 samples. One decoder for packing, training and prediction."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Callable
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]

from kws.audio import containers, ffmpeg, formats, remarks
from kws.audio.sound_bytes import FileBytes

SAMPLE_RATE_HZ = 16_000
WAV_HEADER_BYTES = 44
Pcm = npt.NDArray[np.int16]
_MARGIN_S, _ROUNDING_S = 0.05, 0.05
"""Of decode_span: context for the resampler on both sides; how far a span may reach beyond the recording's end."""
_LEAST_RATE_HZ = 1000
_BLOCK = 1 << 16
_RAW = "ffmpeg -f s16le -ar 16000 -ac 1 -i FILE FILE.wav"
_Result = TypeVar("_Result")
_VORBIS_PAGE = 255 * 1024
"""Samples of an Ogg page, at most. libsndfile 1.2.2 seeks to a wrong sample in the last page of a stream (measured)."""


class AudioError(ValueError):
    """The bytes hold no usable audio. The message has the reason, without the file's name."""


class UnreadableError(AudioError):
    """libsndfile does not read the bytes; ffmpeg may."""


def clip_samples(clip_seconds: float) -> int:
    """Length of a clip in samples."""
    return round(clip_seconds * SAMPLE_RATE_HZ)


def is_audio(name: str) -> bool:
    """Whether the name of a shard's member ends like audio (fixed; for files of a source: formats.name_kind)."""
    return name.rpartition(".")[2].lower() in formats.EXTENSIONS


class Decoded(NamedTuple):
    """16 kHz mono int16 samples (T,), T >= 1, remarks about the recording (kws.audio.remarks), and the format of its
    file, such as 44.1 kHz, 2 channels, FLAC."""

    pcm: Pcm
    remarks: tuple[str, ...] = ()
    source: str = ""


def decode(data: bytes) -> Pcm:
    """The contents of any file that soundfile or ffmpeg reads -> 16 kHz mono int16 samples (T,), T >= 1.

    16 kHz mono PCM16 is returned bit for bit. Otherwise channels are averaged, the rate is converted by soxr (HQ), and
    floats are rounded to multiples of 1/32768 and clipped. Raises AudioError for data that is empty, damaged, not audio
    or not finite.
    """
    if is_plain_wav(data):  # gives the same samples in 2.5 us instead of libsndfile's 162
        return np.frombuffer(data, dtype="<i2", offset=WAV_HEADER_BYTES).astype(np.int16)
    return _decode_any(data).pcm


def decode_with_remarks(data: bytes) -> Decoded:
    """As `decode`, with remarks: what was fixed, and what looks implausible."""
    decoded = Decoded(decode(data), source=_PLAIN) if is_plain_wav(data) else _decode_any(data)
    return _with_remarks(decoded, remarks.of_samples(decoded.pcm, SAMPLE_RATE_HZ))


def decode_span(file: IO[bytes], start_s: float, end_s: float) -> Pcm:
    """As `decode_span_with_remarks`, the samples alone."""
    return decode_span_with_remarks(file, start_s, end_s).pcm


def decode_span_with_remarks(file: IO[bytes], start_s: float, end_s: float) -> Decoded:
    """The samples of a recording from `start_s` to `end_s` (seconds), as `decode_with_remarks` gives them, without
    reading the rest (unless ffmpeg has to read it).

    Resampling uses a little context on both sides, so the cut is not audible. Raises AudioError as `decode` does, and
    where the recording ends before `end_s` (by more than the 50 ms that rounding may explain).
    """
    start, end = (round(seconds * SAMPLE_RATE_HZ) for seconds in (start_s, end_s))
    skipped = 0  # output samples before the span

    def window(frames: int, rate: int) -> tuple[int, int]:
        nonlocal skipped
        if not 0 <= start < end or (end_s - _ROUNDING_S) * rate > frames or start * rate >= frames * SAMPLE_RATE_HZ:
            raise AudioError(f"no sound from {start_s:g} to {end_s:g} s: it has {frames / max(rate, 1):.2f} s")
        # Samples of both rates coincide only at multiples of these.
        per_in, per_out = (value // math.gcd(rate, SAMPLE_RATE_HZ) for value in (rate, SAMPLE_RATE_HZ))
        margin = math.ceil(_MARGIN_S * SAMPLE_RATE_HZ / per_out)
        first = max(0, start // per_out - margin)
        skipped = start - first * per_out
        return first * per_in, min(frames, (-(-end // per_out) + margin) * per_in)

    part, found = _from_file(file, lambda view: _read(view, window))
    pcm, more, source = _mono_pcm(part)
    pcm = pcm[skipped : skipped + end - start]
    return Decoded(pcm, (*found, *more, *remarks.of_samples(pcm, SAMPLE_RATE_HZ)), source)


def duration_s(file: IO[bytes]) -> float:
    """Duration of a recording in seconds, from its header. Raises AudioError where it is not audio."""

    def duration(view: IO[bytes]) -> float:
        with open_sound(view) as sound:
            return float(sound.frames / max(sound.samplerate, 1))

    return _from_file(file, duration)[0]


# --- whole files --------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """Samples as read: int16 (T,) where the file is 16 kHz mono PCM16, else float32 (T, channels).

    format: as of the file. scale: what float samples have to be divided by, see remarks.full_scale.
    """

    samples: npt.NDArray[Any]
    rate_hz: int
    format: str
    scale: float = 1.0

    @property
    def source(self) -> str:
        """See Decoded."""
        channels = 1 if self.samples.ndim == 1 else self.samples.shape[1]
        return source_text(self.rate_hz, channels, self.format)


def _decode_any(data: bytes) -> Decoded:
    sound = containers.locate(data)
    if sound.missing:  # checked first: libsndfile would read what is left, or seek before the start
        raise AudioError(f"ends early: {sound.missing}")
    contents = sound.bytes_of(data)
    try:
        part, found = _read(io.BytesIO(contents), lambda frames, rate: (0, frames)), sound.remarks
    except UnreadableError as error:
        part, found = _read_by_ffmpeg(contents, error)
        found = (*sound.remarks, *found)
    return _with_remarks(_mono_pcm(part), found)


def _with_remarks(decoded: Decoded, more: tuple[str, ...]) -> Decoded:
    return decoded._replace(remarks=(*decoded.remarks, *more)) if more else decoded


def _mono_pcm(part: _Part) -> Decoded:
    """The samples at 16 kHz, mono. Raises AudioError as pcm_from_float, and for a rate at which there is no speech."""
    samples, rate_hz, scale = part.samples, part.rate_hz, part.scale
    if samples.dtype == np.int16:
        return Decoded(samples, source=part.source)
    check_rate(rate_hz)
    found = remarks.of_rate(rate_hz)
    if scale != 1.0:
        samples, found = samples / np.float32(scale), (*found, remarks.SCALED)
    mono, more = remarks.mono(samples)
    pcm = pcm_from_float(mono, rate_hz)
    return Decoded(pcm, (*found, *more, *remarks.of_floats(mono)), part.source)


def check_rate(rate_hz: int) -> None:
    """Raises AudioError for a rate at which there is no speech."""
    if rate_hz < _LEAST_RATE_HZ:  # a damaged header: resampling would fill the memory
        raise AudioError(f"sample rate {rate_hz} Hz, wanted {_LEAST_RATE_HZ:,} or more")


def _read_by_ffmpeg(contents: bytes, error: UnreadableError) -> tuple[_Part, tuple[str, ...]]:
    """A file that libsndfile does not read, with remarks. Raises AudioError."""
    form = ffmpeg_format(contents[: formats.HEAD_BYTES], error)
    try:
        read = ffmpeg.read(contents, form)
    except ffmpeg.FfmpegError as second:
        raise AudioError(f"{error}; {second}" if form.by_soundfile else f"{form.name}: {second}") from second
    if len(read.samples) == 0:
        raise AudioError("no samples")
    if form.by_soundfile and not (containers.is_whole_flac(contents, read.samples) or not read.reported):
        raise AudioError(f"{error}; ffmpeg: {read.reported or 'some samples are missing'}")
    found = (remarks.FFMPEG_INSTEAD,) if form.by_soundfile else (remarks.FFMPEG,)
    part = _Part(read.samples, read.rate_hz, form.name)
    return part, (*found, remarks.FFMPEG_ERRORS) if read.reported else found


def ffmpeg_format(head: bytes, error: UnreadableError) -> formats.AudioFormat:
    """The name of the format for ffmpeg. Raises AudioError where it is none, or where ffmpeg is not installed."""
    form = formats.audio_format(head)
    if form is None:
        what = formats.describe_other(head) or ("" if head.strip(b"\0") else "zeros, as of a copy that failed")
        advice = f"it is {what}" if what else f"no header of a known format; for samples without one: {_RAW}"
        raise AudioError(f"{error}; {advice}") from error
    if not ffmpeg.program():
        what = str(error) if form.by_soundfile else f"{form.name}, which needs ffmpeg"
        raise AudioError(f"{what}; install ffmpeg (apt-get install ffmpeg), or convert: {ffmpeg.CONVERT}") from error
    return form


# --- parts of files -----------------------------------------------------------------------------------------------


def _from_file(file: IO[bytes], read: Callable[[IO[bytes]], _Result]) -> tuple[_Result, tuple[str, ...]]:
    """What `read` returns for the file, or for ffmpeg's WAV of it where libsndfile gives up; with remarks."""
    sound = containers.locate(FileBytes(file), with_end=False)
    view = sound.file_of(file)
    try:
        return read(view), sound.remarks
    except UnreadableError as error:
        view.seek(0)
        form = ffmpeg_format(view.read(formats.HEAD_BYTES), error)
        try:
            with ffmpeg.as_wav(file, form) as wav:
                return read(wav), (remarks.FFMPEG_INSTEAD if form.by_soundfile else remarks.FFMPEG,)
        except ffmpeg.FfmpegError as second:
            raise AudioError(f"{error}; {second}" if form.by_soundfile else f"{form.name}: {second}") from second


def _read(file: IO[bytes], window: Callable[[int, int], tuple[int, int]]) -> _Part:
    """Samples of a part of a file; `window(frames, rate)` returns the part's first frame and its end."""
    try:
        with open_sound(file) as sound:
            exact = sound.subtype == "PCM_16" and sound.channels == 1 and sound.samplerate == SAMPLE_RATE_HZ
            first, end = window(sound.frames, sound.samplerate)
            seek = min(first, max(0, sound.frames - _VORBIS_PAGE)) if sound.subtype == "VORBIS" else first
            if seek:
                sound.seek(seek)
            samples = sound.read(end - seek, dtype="int16" if exact else "float32", always_2d=not exact)[first - seek :]
            scale = _scale(sound, samples) if sound.subtype in ("FLOAT", "DOUBLE") else 1.0
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise UnreadableError(f"not readable as audio ({reason(error)})") from error
    if len(samples) == 0:
        raise AudioError("no samples")
    if len(samples) < end - first:
        raise AudioError(f"ends early: {len(samples)} of {end - first} samples")
    return _Part(samples, sound.samplerate, format_name(sound), scale)


def format_name(sound: soundfile.SoundFile) -> str:
    """Container and coding: WAV PCM_16, OGG VORBIS."""
    return f"{sound.format.replace('WAVEX', 'WAV')} {sound.subtype}"


def source_text(rate_hz: int, channels: int, form: str) -> str:
    """A file's sound in words: 44.1 kHz, 2 channels, FLAC PCM_16."""
    return f"{rate_hz / 1000:g} kHz, {channels} channel{'s' * (channels > 1)}, {form}"


_PLAIN = source_text(SAMPLE_RATE_HZ, 1, "WAV PCM_16")


def _scale(sound: soundfile.SoundFile, samples: npt.NDArray[np.float32]) -> float:
    """The divisor of a file's float samples. The whole file decides it, also where only a part was read."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak > 1.0 and len(samples) == sound.frames:
        return 1.0
    integers = bool((samples == np.rint(samples)).all())
    if len(samples) < sound.frames:
        sound.seek(0)
        for block in sound.blocks(_BLOCK, dtype="float32"):
            peak, integers = max(peak, float(np.abs(block).max())), integers and bool((block == np.rint(block)).all())
    return remarks.full_scale(peak, integers)


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read from start to end. soundfile seeks after each read of a seekable file, and after a seek an
    MP3 continues with other samples."""

    def seekable(self) -> bool:
        return False


def open_sound(file: IO[bytes], sequential: bool = False) -> soundfile.SoundFile:
    """The file, opened by libsndfile; `sequential`: to be read in blocks from its start.

    Raises AudioError where it is empty, UnreadableError where it is not readable.
    """
    file.seek(0)
    try:
        return (_Sequential if sequential else soundfile.SoundFile)(file)
    except (soundfile.SoundFileError, RuntimeError) as error:
        empty = file.seek(0, io.SEEK_END) == 0
        if empty:
            raise AudioError("empty file") from error
        raise UnreadableError(f"not readable as audio ({reason(error)})") from error


def reason(error: Exception) -> str:
    """The error's message, without the address of the buffer."""
    return str(getattr(error, "error_string", error))


def pcm_from_float(samples: npt.NDArray[np.floating], rate_hz: int) -> Pcm:
    """Float samples (T,) in [-1, 1] at `rate_hz` -> 16 kHz int16 samples.

    Raises AudioError for NaN and infinity, and for a rate below 1.
    """
    if rate_hz < 1:
        raise AudioError(f"sample rate {rate_hz} Hz, wanted 1 or more")
    check_finite(samples)
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    if len(samples) == 0:
        raise AudioError("shorter than one sample at 16 kHz")
    return rounded(samples)


def check_finite(samples: npt.NDArray[np.floating]) -> None:
    """Raises AudioError for NaN and infinity."""
    if not np.isfinite(samples).all():
        raise AudioError("has samples that are not finite numbers")


def rounded(samples: npt.NDArray[np.floating]) -> Pcm:
    """Floats in [-1, 1] -> int16, rounded; clipped where they are beyond."""
    pcm: Pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


def to_float(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """int16 -> float32 in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(32768)


def pcm_hash(samples: Pcm) -> int:
    """64-bit hash of the samples: recordings with equal samples have equal hashes, whatever their file format."""
    data = samples.astype("<i2", copy=False).tobytes()
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest()[:8], "little")


def wav_bytes(samples: Pcm) -> bytes:
    """16 kHz mono int16 samples (T,) -> a WAV file of 44 + 2 T bytes."""
    body = samples.astype("<i2", copy=False).tobytes()
    return _header(len(body)) + body


def flac_bytes(samples: Pcm) -> bytes:
    """16 kHz mono int16 samples (T,) -> a FLAC file that decodes to the same samples."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def is_plain_wav(data: bytes) -> bool:
    """Whether the data is a 44-byte header followed by 16 kHz mono int16 samples, which need no decoding."""
    body = len(data) - WAV_HEADER_BYTES
    return body > 0 and body % 2 == 0 and data[:WAV_HEADER_BYTES] == _header(body)


def _header(body_bytes: int) -> bytes:
    """The WAV header that `wav_bytes` writes."""
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * 2, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + body_bytes)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", body_bytes)
    )
