"""Second stage of packing, in worker processes: the samples of clips -> tar members -> one finished shard.

    DIR/.packing/*.pcm --audio member, json member--> DIR/.packing/SPLIT/NNNNNN.tar, its sha256 and rows of the index

Members look as WebDataset's TarWriter writes them: sorted by name, mode 0444, no time. TarWriter itself is not used:
importing it imports torch (three seconds in each worker), and tarfile's `addfile` would take half of the time
(docs/log.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from kws import files
from kws.audio import codec
from kws.data.index import COLUMNS
from kws.errors import UsageError
from kws.packing import scan
from kws.packing.journal import Clip, WrittenShard

AudioFormat = Literal["wav", "flac"]
_FRAME_BYTES = 2048
"""Bytes of a clip in the tar beside its audio: headers, label, padding."""
_FLAC_RATIO = 0.5
"""Assumed for speech. The boundaries of shards then depend on the number of samples alone."""


class IndexedClip(NamedTuple):
    """A clip, and the numbers of its word and its speaker in the index."""

    clip: Clip
    word: int
    speaker: int


class ShardContents(NamedTuple):
    """What a worker needs to write one shard. `digest`: see journal.contents_digest. `check_samples`: samples are
    compared with their hashes, because a killed packing may have decoded them."""

    folder: Path
    split: str
    number: int
    digest: str
    audio_format: AudioFormat
    check_samples: bool
    clips: Sequence[IndexedClip]


def group_into_shards(
    clips: Iterator[IndexedClip], shard_bytes: int, audio_format: AudioFormat
) -> Iterator[list[IndexedClip]]:
    """The clips of each shard: in the given order, about `shard_bytes` each."""
    group, room = list[IndexedClip](), shard_bytes
    for indexed in clips:
        size = codec.WAV_HEADER_BYTES + 2 * indexed.clip.samples
        size = size if audio_format == "wav" else round(size * _FLAC_RATIO)
        if group and room < size:
            yield group
            group, room = [], shard_bytes
        group.append(indexed)
        room -= size + _FRAME_BYTES
    if group:
        yield group


def write_shard(shard: ShardContents) -> WrittenShard:
    """Writes a shard to the scratch folder; a killed worker leaves no incomplete one under its final name.

    Raises UsageError where a scratch file is damaged.
    """
    path = shard.folder / f"{shard.split}/{shard.number:06d}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replaced(path, durable=True) as partial, partial.open("wb") as file:
        tar = _Tar(file)
        rows = list(_write_clips(shard, tar))
        tar.close()
    table = np.array(rows, dtype=np.uint64).reshape(-1, len(COLUMNS))
    return WrittenShard(
        shard.split, shard.number, shard.digest, len(rows), tar.bytes, tar.sha256.hexdigest(), table.tobytes()
    )


def _write_clips(shard: ShardContents, tar: _Tar) -> Iterator[tuple[int, ...]]:
    """Writes the clips, and yields the index row of each, in the order of COLUMNS."""
    encode = codec.wav_bytes if shard.audio_format == "wav" else codec.flac_bytes
    with contextlib.ExitStack() as stack:
        scratch: dict[str, BinaryIO] = {}
        for clip, word, speaker in shard.clips:
            file = scratch.get(clip.file) or stack.enter_context((shard.folder / clip.file).open("rb", buffering=0))
            data = encode(_read_samples(shard, scratch.setdefault(clip.file, file), clip))
            label = json.dumps({"word": clip.word, "speaker": clip.speaker, "source": clip.name}).encode()
            members = {shard.audio_format: data, "json": label}
            offsets = {suffix: tar.add(f"{clip.key}.{suffix}", members[suffix]) for suffix in sorted(members)}
            yield (
                shard.number, offsets[shard.audio_format], len(data), clip.samples, shard.audio_format == "wav",
                word, speaker, zlib.crc32(data), scan.clip_name_hash(clip.key), clip.sound,
            )  # fmt: skip


def _read_samples(shard: ShardContents, file: BinaryIO, clip: Clip) -> codec.Pcm:
    file.seek(2 * clip.start)
    samples = np.frombuffer(file.read(2 * clip.samples), "<i2").astype(np.int16, copy=False)
    if len(samples) != clip.samples or (shard.check_samples and codec.pcm_hash(samples) != clip.sound):
        raise UsageError(
            f"{shard.folder / clip.file}: damaged at {clip.name}; run the same command again to pack from the start"
        )
    return samples


class _Tar:
    """Appends members to a tar file, and measures its size and sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def add(self, name: str, data: bytes) -> int:
        """Appends a member; returns the offset of its first byte."""
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
        info.mtime = 0  # an int: a float would add an extended header of 1 kB
        self._put(info.tobuf(tarfile.PAX_FORMAT))
        start = self.bytes
        self._put(data)
        self._put(bytes(-len(data) % tarfile.BLOCKSIZE))
        return start

    def close(self) -> None:
        """Ends the archive: two empty blocks, padded to a full record."""
        self._put(bytes(2 * tarfile.BLOCKSIZE))
        self._put(bytes(-self.bytes % tarfile.RECORDSIZE))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)
