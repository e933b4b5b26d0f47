"""Encoded audio (bytes) <-> 16 kHz mono int16 samples. One decoder for packing, training and prediction."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import soundfile  # type: ignore[import-untyped]
import soxr  # type: ignore[import-untyped]

from kws.audio import containers, formats

SAMPLE_RATE_HZ = 16_000
WAV_HEADER_BYTES = 44
Pcm = npt.NDArray[np.int16]
_MARGIN_S, _ROUNDING_S = 0.05, 0.05
"""Of decode_span: context for the resampler on both sides; how far a span may reach beyond the recording's end."""
_VORBIS_PAGE = 255 * 1024
"""Samples of an Ogg page, at most. libsndfile 1.2.2 seeks to a wrong sample in the last page of a stream (measured)."""


class AudioError(ValueError):
    """The bytes hold no usable audio. The message says why, without the file's name."""


def clip_samples(clip_seconds: float) -> int:
    """Length of a clip in samples."""
    return round(clip_seconds * SAMPLE_RATE_HZ)


def is_audio(name: str) -> bool:
    """Whether the name of a shard's member ends like audio (fixed; for files of a source: formats.name_kind)."""
    return name.rpartition(".")[2].lower() in formats.EXTENSIONS


def decode(data: bytes) -> Pcm:
    """The contents of any file that soundfile reads -> 16 kHz mono int16 samples (T,), T >= 1.

    16 kHz mono PCM16 is returned bit for bit. Otherwise channels are averaged, the rate is converted by soxr (HQ), and
    floats are rounded to multiples of 1/32768 and clipped. Raises AudioError for data that is empty, damaged, not audio
    or not finite.
    """
    if is_plain_wav(data):  # gives the same samples in 2.5 us instead of libsndfile's 162
        return np.frombuffer(data, dtype="<i2", offset=WAV_HEADER_BYTES).astype(np.int16)
    missing = containers.missing_end(data)
    if missing:  # checked first: libsndfile would read what is left, or seek before the start
        raise AudioError(f"ends early: {missing}")
    samples, rate = _read(io.BytesIO(data), lambda frames, rate: (0, frames))
    return samples if samples.dtype == np.int16 else pcm_from_float(samples.mean(axis=1), rate)


def decode_span(file: IO[bytes], start_s: float, end_s: float) -> Pcm:
    """The samples of a recording from `start_s` to `end_s` (seconds), as `decode` gives them, without reading the rest.

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

    samples, rate = _read(file, window)
    pcm = samples if samples.dtype == np.int16 else pcm_from_float(samples.mean(axis=1), rate)
    return pcm[skipped : skipped + end - start]


def duration_s(file: IO[bytes]) -> float:
    """Duration of a recording in seconds, from its header. Raises AudioError where it is not audio."""
    with _open(file) as sound:
        return float(sound.frames / max(sound.samplerate, 1))


def _read(file: IO[bytes], window: Callable[[int, int], tuple[int, int]]) -> tuple[npt.NDArray[Any], int]:
    """Samples and sample rate of a part of a file; `window(frames, rate)` returns the part's first frame and its end.

    int16 (T,) where the file is 16 kHz mono PCM16, else float32 (T, channels).
    """
    try:
        with _open(file) as sound:
            exact = sound.subtype == "PCM_16" and sound.channels == 1 and sound.samplerate == SAMPLE_RATE_HZ
            first, end = window(sound.frames, sound.samplerate)
            seek = min(first, max(0, sound.frames - _VORBIS_PAGE)) if sound.subtype == "VORBIS" else first
            if seek:
                sound.seek(seek)
            samples = sound.read(end - seek, dtype="int16" if exact else "float32", always_2d=not exact)[first - seek :]
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(f"not readable as audio ({_reason(error)})") from error
    if len(samples) == 0:
        raise AudioError("no samples")
    if len(samples) < end - first:
        raise AudioError(f"ends early: {len(samples)} of {end - first} samples")
    return samples, sound.samplerate


def _open(file: IO[bytes]) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(file)
    except (soundfile.SoundFileError, RuntimeError) as error:
        empty = file.seek(0, io.SEEK_END) == 0
        raise AudioError("empty file" if empty else f"not readable as audio ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The error's message, without the address of the buffer."""
    return str(getattr(error, "error_string", error))


def pcm_from_float(samples: npt.NDArray[np.floating], rate_hz: int) -> Pcm:
    """Float samples (T,) in [-1, 1] at `rate_hz` -> 16 kHz int16 samples.

    Raises AudioError for NaN and infinity, and for a rate below 1.
    """
    if rate_hz < 1:
        raise AudioError(f"sample rate {rate_hz} Hz, wanted 1 or more")
    if not np.isfinite(samples).all():
        raise AudioError("has samples that are not finite numbers")
    if rate_hz != SAMPLE_RATE_HZ:
        samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
    if len(samples) == 0:
        raise AudioError("shorter than one sample at 16 kHz")
    pcm: Pcm = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


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
