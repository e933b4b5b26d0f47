"""Raw samples from a pipe, as they come, in blocks of 16 kHz samples; recordings: kws/audio/recording_blocks.py.

16-bit samples, channels interleaved -> their mean -> 16 kHz -> int16 (n,)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from kws.audio.codec import SAMPLE_RATE_HZ, AudioError, Pcm, to_float
from kws.audio.resampler import Resampler
from kws.errors import UsageError

_READ_BYTES = 1 << 15
_HEADERS = {b"RIFF": "wav", b"RF64": "wav", b"fLaC": "flac", b"OggS": "ogg", b"FORM": "aiff", b"caff": "caf"}
PIPE = "-"


@dataclasses.dataclass(frozen=True)
class RawFormat:
    """Raw samples: 16-bit, little-endian, channels interleaved."""

    rate_hz: int = SAMPLE_RATE_HZ
    channels: int = 1


class Readable(Protocol):
    """A file that gives what is there at once, as sys.stdin.buffer does."""

    def read1(self, size: int, /) -> bytes: ...


def raw_blocks(file: Readable, form: RawFormat) -> Iterator[Pcm]:
    """Raw samples as they come, 16 kHz int16 (n,), until the end.

    Raises UsageError where there is no sample, where a file with a header comes instead, and for a rate at which there
    is no speech.
    """
    if form.channels < 1:
        raise UsageError(f"--channels {form.channels}: wanted 1 or more")
    try:
        resampler, frame, rest, first = Resampler(form.rate_hz), 2 * form.channels, b"", True
    except AudioError as error:
        raise UsageError(f"--rate: {error}") from error
    while data := file.read1(_READ_BYTES):
        rest += data
        if first and len(rest) >= max(4, frame):
            _refuse_header(rest)
            first = False
        usable = 0 if first else len(rest) // frame * frame
        samples, rest = np.frombuffer(rest[:usable], "<i2").reshape(-1, form.channels), rest[usable:]
        yield from _blocks(samples, form, resampler)
    if first:
        raise UsageError(f"-: no sample came; wanted 16-bit samples at {form.rate_hz} Hz, {form.channels} channel(s)")
    last = resampler.finish()
    if len(last):
        yield last


def _blocks(samples: np.ndarray, form: RawFormat, resampler: Resampler) -> Iterator[Pcm]:
    if form == RawFormat():
        block = samples[:, 0].astype(np.int16)
    else:
        block = resampler.push(to_float(samples).mean(axis=1, dtype=np.float32))
    if len(block):
        yield block


def _refuse_header(head: bytes) -> None:
    """Its bytes would be taken for samples, and its rate ignored."""
    if kind := _HEADERS.get(head[:4]):
        raise UsageError(
            f"-: a {kind} file, wanted raw samples: ffmpeg -i FILE -f s16le -ar 16000 -ac 1 - | kws spot RUN -"
        )
