"""A worker's first half of packing: recordings -> 16 kHz PCM16 at the end of a scratch file -> rows of the journal.

[(place in the sources, Recording), ...] --decode--> DIR/.packing/PROCESS.pcm
"""

from __future__ import annotations

import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kws import counter_rng
from kws.audio import codec
from kws.corpus.source import Recording
from kws.errors import UsageError
from kws.packing.journal import Decoded

_CHUNK_RECORDINGS, _CHUNK_BYTES = 64, 2_000_000


class Marked(NamedTuple):
    """A recording at its place in the sources, and a number that is another one where anything about it is."""

    seq: int
    mark: int
    size: int
    recording: Recording


class Chunk(NamedTuple):
    """What a worker decodes at once, and the folder for its scratch file."""

    folder: Path
    marked: list[Marked]


def marked(recordings: Iterable[Recording]) -> Iterator[Marked]:
    """Numbers them. Raises UsageError for a file that cannot be read."""
    for seq, recording in enumerate(recordings):
        if isinstance(recording.audio, bytes):
            contents = str(zlib.crc32(recording.audio))
        else:
            try:
                found = recording.audio.stat()
            except OSError as error:
                raise UsageError(f"{recording.audio}: cannot be read ({error.strerror}); run the same again") from error
            # A file moved over another keeps its own mtime and may have the other's; not its inode and its ctime.
            times = f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
            contents = f"{recording.audio.absolute()} {found.st_size} {times}"
        what = (recording.name, recording.speaker, str(recording.origin), repr(recording.span), contents)
        yield Marked(seq, counter_rng.digest("recording", *what), recording.size, recording)


def chunks(folder: Path, wanted: Iterable[Marked], passed: Callable[[Marked], None]) -> Iterator[Chunk]:
    """A few recordings each, fewer where they are large. `passed` is called with each that goes by."""
    chunk, size = list[Marked](), 0
    for one in wanted:
        passed(one)
        chunk.append(one)
        size += one.size
        if len(chunk) == _CHUNK_RECORDINGS or size > _CHUNK_BYTES:
            yield Chunk(folder, chunk)
            chunk, size = [], 0
    if chunk:
        yield Chunk(folder, chunk)


def decode(chunk: Chunk) -> list[Decoded]:
    """Appends the samples to this process's scratch file. Raises UsageError for a file that cannot be read."""
    path = chunk.folder / f"{os.getpid()}.pcm"
    with path.open("ab") as file:
        end = file.seek(0, os.SEEK_END)
        file.write(b"\0" * (end % 2))  # a killed writer may have left half a sample
        rows = []
        for one in chunk.marked:
            start, samples, fault = file.tell() // 2, None, None
            try:
                samples = one.recording.decode()
                file.write(samples.astype("<i2", copy=False).tobytes())
            except codec.AudioError as error:
                fault = f"{error}{_where(one.recording)}"
            rows.append(_row(one, path.name, start, samples, fault))
    return rows


def _where(recording: Recording) -> str:
    """The file, where it is not the one that origin and name make."""
    path = recording.audio
    return "" if isinstance(path, bytes) or path == recording.origin / recording.name else f" ({path})"


def _row(one: Marked, file: str, start: int, samples: codec.Pcm | None, fault: str | None) -> Decoded:
    recording = one.recording
    base = key_of(recording.name)
    count, sound = (0, 0) if samples is None else (len(samples), codec.pcm_hash(samples))
    return Decoded(
        one.seq, one.mark, recording.name, str(recording.origin), recording.word, recording.speaker,
        file, start, count, sound, fault, base, counter_rng.digest("pack", base),
    )  # fmt: skip


def key_of(name: str) -> str:
    """WORD/FILE.wav as a key of WebDataset, without dots."""
    return re.sub(r"[^\w-]+", _only_marks, name.rpartition(".")[0].strip("_"))


def _only_marks(found: re.Match[str]) -> str:
    """What is no letter as one _, but for vowel signs and accents: in some scripts words differ by them alone."""
    return re.sub("_+", "_", "".join(c if unicodedata.category(c).startswith("M") else "_" for c in found[0]))
