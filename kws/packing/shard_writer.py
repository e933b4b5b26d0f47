"""A worker's second half of packing: clips' samples -> members of a tar -> one whole shard, and its rows.

    DIR/.packing/*.pcm --audio member, json member--> DIR/.packing/SPLIT/NNNNNN.tar, sha256, rows of the index

Members are written as WebDataset's own TarWriter writes them: by name, mode 0444, no time. Not by it: importing it
imports torch, three seconds a worker, and from the headers up tarfile's own writing is half the work (docs/log.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from kws.audio import codec
from kws.data.index import COLUMNS
from kws.errors import UsageError
from kws.packing import scan
from kws.packing.journal import Clip, Written

AudioFormat = Literal["wav", "flac"]
_FRAME_BYTES = 2048
"""Of a clip in the tar beside its audio: headers, label, padding."""
_FLAC_RATIO = 0.5
"""Of speech, about: the boundaries of shards hang on the samples' number alone."""


class Numbered(NamedTuple):
    """A clip with the numbers of its word and speaker in the index."""

    clip: Clip
    word: int
    speaker: int


class Shard(NamedTuple):
    """What to write: `digest` says the same of the same contents. `doubted`: a killed packing decoded some of it."""

    folder: Path
    split: str
    number: int
    digest: str
    audio_format: AudioFormat
    doubted: bool
    clips: Sequence[Numbered]


def dealt(clips: Iterator[Numbered], shard_bytes: int, audio_format: AudioFormat) -> Iterator[list[Numbered]]:
    """Clips in their order, in lots of about so many bytes."""
    lot, room = list[Numbered](), shard_bytes
    for one in clips:
        size = codec.WAV_HEADER_BYTES + 2 * one.clip.samples
        size = size if audio_format == "wav" else round(size * _FLAC_RATIO)
        if lot and room < size:
            yield lot
            lot, room = [], shard_bytes
        lot.append(one)
        room -= size + _FRAME_BYTES
    if lot:
        yield lot


def write(shard: Shard) -> Written:
    """Writes it under another name, to the disk, then renames it. Raises UsageError for scratch that is damaged."""
    path = shard.folder / f"{shard.split}/{shard.number:06d}.tar"
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        tar = _Tar(file)
        rows = list(_write_clips(shard, tar))
        tar.close()
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    table = np.array(rows, dtype=np.uint64).reshape(-1, len(COLUMNS))
    return Written(
        shard.split, shard.number, shard.digest, len(rows), tar.bytes, tar.sha256.hexdigest(), table.tobytes()
    )


def _write_clips(shard: Shard, tar: _Tar) -> Iterator[tuple[int, ...]]:
    """Each clip's row, in the order of COLUMNS."""
    encode = codec.wav_bytes if shard.audio_format == "wav" else codec.flac_bytes
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for clip, word, speaker in shard.clips:
            file = files.get(clip.file) or stack.enter_context((shard.folder / clip.file).open("rb", buffering=0))
            data = encode(_samples(shard, files.setdefault(clip.file, file), clip))
            label = json.dumps({"word": clip.word, "speaker": clip.speaker, "source": clip.name}).encode()
            members = {shard.audio_format: data, "json": label}
            offsets = {suffix: tar.add(f"{clip.key}.{suffix}", members[suffix]) for suffix in sorted(members)}
            yield (
                shard.number, offsets[shard.audio_format], len(data), clip.samples, shard.audio_format == "wav",
                word, speaker, zlib.crc32(data), scan.name_id(clip.key), clip.sound,
            )  # fmt: skip


def _samples(shard: Shard, file: BinaryIO, clip: Clip) -> codec.Pcm:
    file.seek(2 * clip.start)
    samples = np.frombuffer(file.read(2 * clip.samples), "<i2").astype(np.int16, copy=False)
    if len(samples) != clip.samples or (shard.doubted and codec.pcm_hash(samples) != clip.sound):
        raise UsageError(f"{shard.folder / clip.file}: damaged at {clip.name}; run the same again, which starts anew")
    return samples


class _Tar:
    """Appends members to a file, noting its size and sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Where its bytes begin."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
        info.mtime = 0  # a float would make a header of its own, 1 kB
        self._put(info.tobuf(tarfile.PAX_FORMAT))
        start = self.bytes
        self._put(data)
        self._put(bytes(-len(data) % tarfile.BLOCKSIZE))
        return start

    def close(self) -> None:
        """Two empty blocks, and more up to a record."""
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._put(bytes(-self.bytes % tarfile.RECORDSIZE))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)
