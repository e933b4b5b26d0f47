"""First stage of packing, in worker processes: recordings -> 16 kHz PCM16 in a scratch file -> rows of the journal.

[NumberedRecording, ...] --decode--> appended to DIR/.packing/PROCESS.pcm
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kws import counter_rng
from kws.audio import codec, remarks
from kws.corpus.recording import NO_WORDS
from kws.corpus.source import Recording
from kws.errors import filename_in_error, unreadable
from kws.packing.journal import DecodedRecording

_CHUNK_RECORDINGS, _CHUNK_BYTES = 64, 2_000_000
_MOST_KEY_BYTES = 240
"""With the ending of a member, and the hash that distinguishes equal keys, at most 255: the limit of file systems."""


class NumberedRecording(NamedTuple):
    """A recording, its position in the sources, a hash of everything that it is made from, and its size in bytes."""

    seq: int
    mark: int
    size: int
    recording: Recording


class Chunk(NamedTuple):
    """The recordings that a worker decodes at once, and the folder for its scratch file."""

    folder: Path
    recordings: list[NumberedRecording]


def number_recordings(recordings: Iterable[Recording]) -> Iterator[NumberedRecording]:
    """Numbers and hashes the recordings. Raises UsageError for a file or source that cannot be read."""
    with reading():
        for seq, recording in enumerate(recordings):
            if isinstance(recording.audio, bytes):
                contents = str(zlib.crc32(recording.audio))
            else:
                found = recording.audio.stat()
                # A file that replaced another may have the same mtime, but not the same inode and ctime.
                times = f"{found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
                contents = f"{recording.audio.absolute()} {found.st_size} {times}"
            what = (
                recording.name,
                recording.speaker,
                str(recording.origin),
                repr(recording.span),
                contents,
                recording.split,
            )
            yield NumberedRecording(seq, counter_rng.digest("recording", *what), recording.size, recording)


@contextlib.contextmanager
def reading(path: Path | None = None) -> Iterator[None]:
    """Around reading from a source: an OSError in it becomes a UsageError that names the file, or else `path`.

    All other OSErrors of a packing are then those of its output.
    """
    try:
        yield
    except OSError as error:
        raise unreadable(error, path) from error


def chunks(
    folder: Path, recordings: Iterable[NumberedRecording], taken: Callable[[NumberedRecording], None]
) -> Iterator[Chunk]:
    """Groups the recordings: a few in each chunk, fewer where they are large. `taken` is called with each of them."""
    chunk, size = list[NumberedRecording](), 0
    for numbered in recordings:
        taken(numbered)
        chunk.append(numbered)
        size += numbered.size
        if len(chunk) == _CHUNK_RECORDINGS or size > _CHUNK_BYTES:
            yield Chunk(folder, chunk)
            chunk, size = [], 0
    if chunk:
        yield Chunk(folder, chunk)


def decode(chunk: Chunk) -> list[DecodedRecording]:
    """Appends the samples to this process's scratch file. Returns a row for each recording, also for one that cannot be
    decoded. Raises UsageError for a file that cannot be read."""
    path = chunk.folder / f"{os.getpid()}.pcm"
    with filename_in_error(path), path.open("ab") as file:
        end = file.seek(0, os.SEEK_END)
        file.write(b"\0" * (end % 2))  # a killed worker may have left half a sample
        rows = []
        for numbered in chunk.recordings:
            start, decoded, fault = file.tell() // 2, None, None
            try:
                with reading(_path(numbered.recording)):
                    decoded = numbered.recording.decode_with_remarks()
                file.write(decoded.pcm.astype("<i2", copy=False).tobytes())
            except codec.AudioError as error:
                fault = f"{error}{_where(numbered.recording)}"
            rows.append(_row(numbered, path.name, start, decoded, fault))
    return rows


def _path(recording: Recording) -> Path:
    """The file or archive that a recording is read from."""
    return recording.origin if isinstance(recording.audio, bytes) else recording.audio


def _where(recording: Recording) -> str:
    """The file in parentheses, where origin and name do not already give it."""
    path = recording.audio
    return "" if isinstance(path, bytes) or path == recording.origin / recording.name else f" ({path})"


def _row(
    numbered: NumberedRecording, file: str, start: int, decoded: codec.Decoded | None, fault: str | None
) -> DecodedRecording:
    recording = numbered.recording
    base = clip_key(recording.name)
    count, sound = (0, 0) if decoded is None else (len(decoded.pcm), codec.pcm_hash(decoded.pcm))
    found = () if decoded is None else decoded.remarks
    if recording.word in NO_WORDS:
        found = tuple(remark for remark in found if remark not in remarks.NOT_OF_NOISE)
    return DecodedRecording(
        numbered.seq, numbered.mark, recording.name, str(recording.origin), recording.word, recording.speaker,
        file, start, count, sound, fault, base, counter_rng.digest("pack", base),
        "\n".join(found), "" if decoded is None else decoded.source, recording.split,
    )  # fmt: skip


def clip_key(name: str) -> str:
    """WORD/FILE.wav as a WebDataset key, which must have no dots: WORD_FILE. One that is too long for a file name when
    the shard is unpacked is shortened, with a hash of the whole name."""
    key = re.sub(r"[^\w-]+", _replace_symbols, name.rpartition(".")[0].strip("_"))
    if len(key.encode()) <= _MOST_KEY_BYTES:
        return key
    ending = "-" + hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()[:8]
    return key.encode()[: _MOST_KEY_BYTES - len(ending)].decode(errors="ignore") + ending


def _replace_symbols(found: re.Match[str]) -> str:
    """One _ for characters that are no letters; combining marks stay, as in some scripts words differ by them alone."""
    return re.sub("_+", "_", "".join(c if unicodedata.category(c).startswith("M") else "_" for c in found[0]))
