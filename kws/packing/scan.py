"""Reads shards from start to end: to index them, and to verify them against their index.

    bytes -> tar members -> samples, grouped as WebDataset groups them -> a ScannedClip each: audio offset, word,
    speaker

A sample is an audio member and a label: a json, cls or txt member, or the folder in its key. Every byte is checked:
Python's tarfile and WebDataset take a damaged header in the middle of a file for its end, and silently ignore the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np

from kws import counter_rng
from kws.audio import codec
from kws.corpus.archives import StrictInfo
from kws.corpus.source import NOISE_FOLDER
from kws.data.index import COLUMNS, NEGATIVES, Column, Index, Shard, Split, count_cells
from kws.errors import UsageError
from kws.packing import labels
from kws.transport import describe_error

# As in WebDataset: the key ends at the first dot after the last slash.
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_NOT_SAMPLES = re.compile(r"__[^/]*__($|/)|(.*/)?\._")  # WebDataset's metadata; macOS's resource forks
_BUFFER_BYTES = 1 << 20


class Readable(Protocol):
    """A shard being read. `read` returns fewer bytes than requested only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class ScannedClip:
    """One clip in its tar. The fields from `offset` on are columns of the index (docs/data.md): `offset` and `length`
    of the audio member in bytes, `samples` at 16 kHz."""

    key: str
    word: str
    speaker: str
    offset: int
    length: int
    samples: int
    plain: bool
    crc32: int
    name: int
    sound: int
    folder: str = ""
    """The folder in the key, where the word was read from it."""


class ScannedShard(NamedTuple):
    """A whole shard: its clips in order, the reasons of samples left out (by byte offset), its size and sha256."""

    clips: list[ScannedClip]
    left_out: dict[int, str]
    bytes: int
    sha256: str


class _Member(NamedTuple):
    offset: int
    data: bytes


class _MeasuringReader:
    """Reads from a shard and measures it: its size, its sha256, and the end of the last byte that is not zero."""

    def __init__(self, file: Readable) -> None:
        self._file, self.sha256 = file, hashlib.sha256()
        self.bytes = self.content_end = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        content = len(data.rstrip(b"\0"))
        self.content_end = self.bytes + content if content else self.content_end
        self.bytes += len(data)
        return data


def scan_shard(file: Readable, where: str, words: Sequence[str] = (), noise: bool = False) -> ScannedShard:
    """Reads a shard; `where` is its name in messages.

    `words`: what numeric labels stand for. `noise`: clips are noise recordings, which need no label. Raises UsageError
    naming the shard (and the sample) where the shard cannot be read, the tar is damaged, or a sample has no usable
    label.
    """
    metered, clips, left_out = _MeasuringReader(file), list[ScannedClip](), dict[int, str]()
    fault: UsageError | None = None
    try:
        # As a stream, so that a shard is read once over a network. A buffer larger than tarfile's 10 kB is slower,
        # because tarfile copies what is left of it at every read.
        with tarfile.open(fileobj=metered, mode="r|", tarinfo=StrictInfo) as tar:  # type: ignore[call-overload]
            try:
                for key, members in _samples(tar, where, left_out):
                    fault = fault or _add_sample(where, key, members, words, noise, clips, left_out)
            except tarfile.TarError as error:
                raise UsageError(
                    f"{where}: damaged tar ({error} at byte {tar.offset}); copy or pack it again"
                ) from error
            end = tar.offset
        while metered.read(_BUFFER_BYTES):
            pass
    except tarfile.TarError as error:
        raise UsageError(f"{where}: damaged tar ({error}); copy or pack it again") from error
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"{where}: cannot be read ({describe_error(error)}); wanted a tar shard") from error
    if metered.content_end > end:
        raise UsageError(
            f"{where}: damaged tar (closing blocks at byte {end}, but more data up to byte {metered.content_end}); "
            "copy or pack it again"
        )
    if fault:  # raised only now: a damaged tar, which is reported first, may be the cause
        raise fault
    return ScannedShard(clips, left_out, metered.bytes, metered.sha256.hexdigest())


def _add_sample(
    where: str, key: str, members: Mapping[str, _Member], words: Sequence[str], noise: bool,
    clips: list[ScannedClip], left_out: MutableMapping[int, str],
) -> UsageError | None:  # fmt: skip
    """Adds a sample to `clips` or `left_out`. Returns the error of a sample without a usable label."""
    try:
        clip = _clip(where, key, members, words, noise)
    except UsageError as error:
        return error
    if isinstance(clip, ScannedClip):
        clips.append(clip)
    else:
        left_out[min(member.offset for member in members.values())] = clip
    return None


def _samples(
    tar: tarfile.TarFile, where: str, left_out: MutableMapping[int, str]
) -> Iterator[tuple[str, dict[str, _Member]]]:
    """Key and members (suffix -> member) of each sample: neighbouring members with the same key."""
    key, members = "", dict[str, _Member]()
    while (info := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps them all in memory
        match = _KEY_AND_SUFFIX.match(info.name)
        if match is None or _NOT_SAMPLES.match(info.name) or info.isdir():
            continue
        if not info.isreg() or info.sparse is not None:
            left_out[info.offset] = f"{where}: {info.name}: a link or special file, wanted a regular file"
            continue
        if members and match[1] != key:
            yield key, members
            members = {}
        key, suffix = match[1], match[2].lower()
        if suffix in members:
            raise UsageError(f"{where}: sample {key}: two members .{suffix}; wanted names that are unique in a shard")
        file = tar.extractfile(info)
        members[suffix] = _Member(info.offset_data, file.read() if file else b"")
    if members:
        yield key, members


def _clip(where: str, key: str, members: Mapping[str, _Member], words: Sequence[str], noise: bool) -> ScannedClip | str:
    """The sample as a clip, or the reason to leave it out. Raises UsageError where its label or audio is ambiguous."""
    audio = [suffix for suffix in members if codec.is_audio(suffix)]
    if not audio:
        return f"{where}: sample {key}: no audio, only {labels.list_suffixes(members)}"
    if len(audio) > 1:
        raise UsageError(
            f"{where}: sample {key}: {len(audio)} audio members, wanted one; found {labels.list_suffixes(audio)} "
            "(a key ends at its first dot)"
        )
    try:
        word, speaker = labels.word_and_speaker(key, {suffix: member.data for suffix, member in members.items()}, words)
    except ValueError as error:
        if not noise:
            raise UsageError(f"{where}: sample {key}: {error}") from error
        word, speaker = NOISE_FOLDER, ""
    offset, data = members[audio[0]]
    by_key = (
        ""
        if noise or word == NOISE_FOLDER
        else labels.folder_of_label(key, {suffix: member.data for suffix, member in members.items()})
    )
    plain = codec.is_plain_wav(data) and len(data) % 2 == 0
    try:
        pcm = codec.decode(data)
    except codec.AudioError as error:
        return f"{where}: clip {key}: damaged audio ({error}); copy or pack it again"
    return ScannedClip(
        key, NOISE_FOLDER if noise else word, speaker, offset, len(data), len(pcm), plain, zlib.crc32(data),
        clip_name_hash(key), codec.pcm_hash(pcm), by_key,
    )  # fmt: skip


def clip_name_hash(key: str) -> int:
    """The 64-bit hash of a clip's key, as in the index's column `name`."""
    return counter_rng.digest("clip", key)


# --- tables ---------------------------------------------------------------------------------------------------


def table_of_clips(
    clips: Sequence[ScannedClip], shard: int, word_ids: Mapping[str, int], speaker_ids: Mapping[str, int]
) -> Column:
    """The index rows of one shard's clips: (clips, columns) uint64, columns in the order of COLUMNS."""
    rows = [
        (
            shard, clip.offset, clip.length, clip.samples, clip.plain, word_ids[clip.word], speaker_ids[clip.speaker],
            clip.crc32, clip.name, clip.sound,
        )
        for clip in clips
    ]  # fmt: skip
    return np.array(rows, dtype=np.uint64).reshape(-1, len(COLUMNS))


def split_from_tables(name: str, tables: Sequence[Column], shards: Sequence[Shard], num_words: int) -> Split:
    """One split from the tables of its shards, each (clips, columns)."""
    whole = np.concatenate([np.zeros((0, len(COLUMNS)), np.uint64), *tables])
    columns = {column: whole[:, i].astype(dtype) for i, (column, dtype) in enumerate(COLUMNS.items())}
    return Split(name, tuple(shards), columns, count_cells(columns["shard"], columns["word"], len(shards), num_words))


# --- verifying ------------------------------------------------------------------------------------------------


class ShardAccess(NamedTuple):
    """How shards are opened by name, and what messages call them."""

    open: Callable[[str], AbstractContextManager[Readable]]
    shown: Callable[[str], str]


class VerifyResult(NamedTuple):
    """The number of clips in undamaged shards, and a line for every damaged shard."""

    clips: int
    faults: list[str]


def local_shards(index: Index) -> ShardAccess:
    """Shards below the index's own folder."""
    return ShardAccess(lambda name: (index.root / name).open("rb"), lambda name: str(index.root / name))


def verify(
    index: Index, shards: ShardAccess | None = None, done: Callable[[int], None] = lambda clips: None
) -> VerifyResult:
    """Compares every shard with the index. `done` is called with the number of clips compared so far."""
    parts: dict[str, list[tuple[Split, int, Shard]]] = {}
    for split in index.groups.values():
        for number, shard in enumerate(split.shards):  # a shard packed by others may hold clips of several splits
            parts.setdefault(shard.name, []).append((split, number, shard))
    num_sound, num_compared, faults = 0, 0, list[str]()
    for name, shard_parts in parts.items():
        clips = sum(shard.clips for _, _, shard in shard_parts)
        try:
            wrong = _verify_shard(index, shards or local_shards(index), name, shard_parts)
        except UsageError as error:
            wrong = [str(error)]
        num_sound, num_compared = num_sound + (0 if wrong else clips), num_compared + clips
        if wrong:
            faults.append(wrong[0] + (f" (and {len(wrong) - 1} more faults in this shard)" if wrong[1:] else ""))
        done(num_compared)
    return VerifyResult(num_sound, faults)


def _verify_shard(index: Index, shards: ShardAccess, name: str, parts: Iterable[tuple[Split, int, Shard]]) -> list[str]:
    """The differences between one shard and the index, a line each. Raises UsageError where it cannot be read."""
    where = shards.shown(name)
    try:
        with shards.open(name) as file:
            scanned = scan_shard(file, where, index.words, noise=all(split.name == "noise" for split, _, _ in parts))
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({describe_error(error)}); wanted a tar shard") from error
    faults, by_offset = list[str](), {clip.offset: clip for clip in scanned.clips}
    num_indexed = 0
    for split, number, shard in parts:
        num_indexed += shard.clips
        for row in range(shard.start, shard.start + shard.clips):
            offset = int(split.columns["offset"][row])
            found, reason = by_offset.get(offset), scanned.left_out.get(offset, "")
            faults += _compare(index, split, number, row, found, reason, where)
    if len(scanned.clips) != num_indexed:
        faults.append(f"{where}: {len(scanned.clips)} clips, the index has {num_indexed}; copy or pack it again")
    if any((scanned.bytes, scanned.sha256) != (shard.bytes, shard.sha256) for _, _, shard in parts):
        faults.append(f"{where}: sha256 differs from the index; copy or pack it again")
    return faults


def _compare(
    index: Index, split: Split, shard: int, row: int, clip: ScannedClip | None, left_out: str, where: str
) -> Iterator[str]:
    """The difference between a row of the index and the clip at its offset, if there is one."""
    if clip is None:
        yield left_out or f"{where}: clip {row} of {split.name} is not where the index has it; copy or pack it again"
        return
    wanted = {column: split.columns[column][row].item() for column in COLUMNS}
    found = dataclasses.asdict(clip) | {"shard": shard}
    wanted["word"] = clip.word if split.name in ("noise", *NEGATIVES.values()) else _name(index.words, wanted["word"])
    wanted["speaker"] = _name(index.speakers, wanted["speaker"])
    wrong = [column for column in COLUMNS if found[column] != wanted[column]]
    if clip.folder:  # which of its folders is what depends on all keys
        wrong = [column for column in wrong if column not in ("word", "speaker") or str(wanted[column]) not in clip.key]
    if wrong:
        yield f"{where}: clip {clip.key}: {', '.join(wrong)} differ from the index; copy or pack it again"


def _name(names: Sequence[str] | Column, number: int) -> str | None:
    """A word or a speaker; None for a number beyond the list."""
    name = names[number] if number < len(names) else None
    return name.decode() if isinstance(name, bytes) else name
