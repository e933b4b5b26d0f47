"""Reads shards from end to end, to index them and to check them against their index.

    bytes -> tar members -> samples, grouped as WebDataset does -> one row a clip: where its audio lies, word, speaker

A sample is an audio member and a label: json, cls, txt or the folder in its key. Every byte is accounted for: Python's
tarfile and WebDataset take a damaged header in mid-file for the end of the tar and pass over the rest in silence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import re
import tarfile
import urllib.error
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from kws import counter_rng
from kws.audio import codec
from kws.corpus.source import NOISE_FOLDER, StrictInfo
from kws.data.index import COLUMNS, Column, Index, Shard, Split, count_cells
from kws.errors import UsageError
from kws.packing import labels

# WebDataset's own rule: the key ends at the first dot after the last slash.
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_NOT_SAMPLES = re.compile(r"__[^/]*__($|/)|(.*/)?\._")  # WebDataset's metadata, macOS's shadows
_BUFFER_BYTES = 1 << 20


class Readable(Protocol):
    """What a shard is read from; `read` gives fewer bytes than asked for only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One clip as it lies in its tar; `offset` and `length` in bytes, `samples` at 16 kHz."""

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


class Scan(NamedTuple):
    """A whole shard: its clips in order, what is none with the reason by offset, its size and sha256."""

    rows: list[Row]
    left_out: dict[int, str]
    bytes: int
    sha256: str


class _Member(NamedTuple):
    offset: int
    data: bytes


class _Metered:
    """Passes a shard on, noting its size, its sha256 and where its last byte lies that is not zero."""

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


def scan(file: Readable, where: str, words: Sequence[str] = (), noise: bool = False) -> Scan:
    """Reads a shard that messages call `where`. `words` are what numbers as labels mean; `noise` needs no labels.

    Raises UsageError naming the shard (and the sample) where the tar is damaged or a sample is not understood.
    """
    metered, rows, left_out = _Metered(file), list[Row](), dict[int, str]()
    fault: UsageError | None = None
    try:
        # As a stream, so that what comes over a network is read once. A larger buffer than its 10 kB is slower: tarfile
        # copies what is left of it at every read.
        with tarfile.open(fileobj=metered, mode="r|", tarinfo=StrictInfo) as tar:  # type: ignore[call-overload]
            try:
                for key, members in _samples(tar, where, left_out):
                    fault = fault or _take(where, key, members, words, noise, rows, left_out)
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
        raise UsageError(f"{where}: cannot be read ({_why(error)}); wanted a tar shard") from error
    if metered.content_end > end:
        raise UsageError(
            f"{where}: damaged tar (closing blocks at byte {end}, but more data up to byte {metered.content_end}); "
            "copy or pack it again"
        )
    if fault:  # only now: a damaged tar may be why a sample lacks something
        raise fault
    return Scan(rows, left_out, metered.bytes, metered.sha256.hexdigest())


def _take(
    where: str, key: str, members: Mapping[str, _Member], words: Sequence[str], noise: bool,
    rows: list[Row], left_out: MutableMapping[int, str],
) -> UsageError | None:  # fmt: skip
    """Puts a sample where it belongs, or says why it is not understood."""
    try:
        row = _row(where, key, members, words, noise)
    except UsageError as error:
        return error
    if isinstance(row, Row):
        rows.append(row)
    else:
        left_out[min(member.offset for member in members.values())] = row
    return None


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__)


def scan_shard(path: Path, words: Sequence[str] = (), noise: bool = False) -> Scan:
    """A shard on this machine. Raises UsageError as `scan`, and where it cannot be read."""
    try:
        with path.open("rb") as file:
            return scan(file, str(path), words, noise)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); wanted a tar shard") from error


def _samples(
    tar: tarfile.TarFile, where: str, left_out: MutableMapping[int, str]
) -> Iterator[tuple[str, dict[str, _Member]]]:
    """Members (suffix -> member) grouped by key; a sample's members stand together."""
    key, members = "", dict[str, _Member]()
    while (info := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        match = _KEY_AND_SUFFIX.match(info.name)
        if match is None or _NOT_SAMPLES.match(info.name) or info.isdir():
            continue
        if not info.isreg() or info.sparse is not None:
            left_out[info.offset] = f"{where}: {info.name}: a link or no plain file, wanted the file itself"
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


def _row(where: str, key: str, members: Mapping[str, _Member], words: Sequence[str], noise: bool) -> Row | str:
    """The sample's row, or why it is no clip."""
    audio = [suffix for suffix in members if codec.is_audio(suffix)]
    if not audio:
        return f"{where}: sample {key}: no audio, only {labels.listed(members)}"
    if len(audio) > 1:
        raise UsageError(
            f"{where}: sample {key}: {len(audio)} audio members, wanted one; found {labels.listed(audio)} "
            "(a key ends at its first dot)"
        )
    try:
        word, speaker = labels.word_and_speaker(key, {suffix: member.data for suffix, member in members.items()}, words)
    except ValueError as error:
        if not noise:
            raise UsageError(f"{where}: sample {key}: {error}") from error
        word, speaker = NOISE_FOLDER, ""
    offset, data = members[audio[0]]
    plain = codec.is_plain_wav(data) and len(data) % 2 == 0
    try:
        pcm = codec.decode(data)
    except codec.AudioError as error:
        return f"{where}: clip {key}: damaged audio ({error}); copy or pack it again"
    return Row(
        key, NOISE_FOLDER if noise else word, speaker, offset, len(data), len(pcm), plain, zlib.crc32(data),
        name_id(key), codec.pcm_hash(pcm),
    )  # fmt: skip


def name_id(key: str) -> int:
    """A clip's key as 64 bits, for the index."""
    return counter_rng.digest("clip", key)


# --- tables ---------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], number: int, word_ids: Mapping[str, int], speaker_ids: Mapping[str, int]) -> Column:
    """A shard's rows as numbers, in the order of COLUMNS: (clips, columns) uint64."""
    values = [
        (
            number,
            row.offset,
            row.length,
            row.samples,
            row.plain,
            word_ids[row.word],
            speaker_ids[row.speaker],
            row.crc32,
            row.name,
            row.sound,
        )
        for row in rows
    ]
    return np.array(values, dtype=np.uint64).reshape(-1, len(COLUMNS))


def split_of_tables(name: str, tables: Sequence[Column], shards: Sequence[Shard], num_words: int) -> Split:
    """One split from the tables of its shards."""
    whole = np.concatenate([np.zeros((0, len(COLUMNS)), np.uint64), *tables])
    columns = {column: whole[:, i].astype(dtype) for i, (column, dtype) in enumerate(COLUMNS.items())}
    return Split(name, tuple(shards), columns, count_cells(columns["shard"], columns["word"], len(shards), num_words))


def build_split(
    root: Path,
    name: str,
    paths: Sequence[Path],
    words: Sequence[str],
    speakers: Sequence[str],
    done: Callable[[int], None],
) -> Split:
    """Scans a packed split's shards into its table. `done` is called with the clips read so far."""
    word_ids = {word: number for number, word in enumerate(words)} | ({NOISE_FOLDER: 0} if name == "noise" else {})
    speaker_ids = {speaker: number for number, speaker in enumerate(speakers)}
    tables, shards, start = list[Column](), list[Shard](), 0
    for number, path in enumerate(paths):
        found = scan_shard(path, noise=name == "noise")
        assert not found.left_out, found.left_out
        tables.append(table(found.rows, number, word_ids, speaker_ids))
        shards.append(Shard(path.relative_to(root).as_posix(), found.bytes, len(found.rows), start, found.sha256))
        start += len(found.rows)
        done(start)
    return split_of_tables(name, tables, shards, len(words))


# --- verifying ------------------------------------------------------------------------------------------------


class Shards(NamedTuple):
    """How shards are reached by their names: what opens one, and what messages call it."""

    open: Callable[[str], AbstractContextManager[Readable]]
    shown: Callable[[str], str]


class Verdict(NamedTuple):
    """Clips found as indexed, and a line for every shard that is not."""

    clips: int
    faults: list[str]


def local(index: Index) -> Shards:
    """Shards below the index's own folder."""
    return Shards(lambda name: (index.root / name).open("rb"), lambda name: str(index.root / name))


def verify(index: Index, shards: Shards | None = None, done: Callable[[int], None] = lambda clips: None) -> Verdict:
    """Compares every shard with the index. `done` is called with the clips compared so far."""
    parts: dict[str, list[tuple[Split, int, Shard]]] = {}
    for split in index.splits.values():
        for number, shard in enumerate(split.shards):  # a foreign shard may have clips of several splits
            parts.setdefault(shard.name, []).append((split, number, shard))
    sound, compared, faults = 0, 0, list[str]()
    for name, of_shard in parts.items():
        clips = sum(shard.clips for _, _, shard in of_shard)
        try:
            wrong = _verify_shard(index, shards or local(index), name, of_shard)
        except UsageError as error:
            wrong = [str(error)]
        sound, compared = sound + (0 if wrong else clips), compared + clips
        if wrong:
            faults.append(wrong[0] + (f" (and {len(wrong) - 1} more faults in this shard)" if wrong[1:] else ""))
        done(compared)
    return Verdict(sound, faults)


def _verify_shard(index: Index, shards: Shards, name: str, parts: Iterable[tuple[Split, int, Shard]]) -> list[str]:
    """What is wrong with one shard, a line each. Raises UsageError where it cannot be read."""
    where = shards.shown(name)
    try:
        with shards.open(name) as file:
            found = scan(file, where, index.words, noise=all(split.name == "noise" for split, _, _ in parts))
    except OSError as error:
        raise UsageError(f"{where}: cannot be read ({_why(error)}); wanted a tar shard") from error
    faults, rows = list[str](), {row.offset: row for row in found.rows}
    clips = 0
    for split, number, shard in parts:
        clips += shard.clips
        for record in range(shard.start, shard.start + shard.clips):
            offset = int(split.columns["offset"][record])
            faults += _compare(index, split, number, record, rows.get(offset), found.left_out.get(offset, ""), where)
    if len(found.rows) != clips:
        faults.append(f"{where}: {len(found.rows)} clips, the index has {clips}; copy or pack it again")
    if any((found.bytes, found.sha256) != (shard.bytes, shard.sha256) for _, _, shard in parts):
        faults.append(f"{where}: sha256 differs from the index; copy or pack it again")
    return faults


def _compare(
    index: Index, split: Split, number: int, record: int, row: Row | None, left_out: str, where: str
) -> Iterator[str]:
    """A clip of the index with what lies in its place."""
    if row is None:
        yield left_out or f"{where}: clip {record} of {split.name} is not where the index has it; copy or pack it again"
        return
    wanted = {column: split.columns[column][record].item() for column in COLUMNS}
    found = dataclasses.asdict(row) | {"shard": number}
    wanted["word"] = row.word if split.name == "noise" else _name(index.words, wanted["word"])
    wanted["speaker"] = _name(index.speakers, wanted["speaker"])
    wrong = [column for column in COLUMNS if found[column] != wanted[column]]
    if wrong:
        yield f"{where}: clip {row.key}: {', '.join(wrong)} differ from the index; copy or pack it again"


def _name(names: Sequence[str] | Column, number: int) -> str | None:
    """A word or a speaker; None for a number that is none."""
    name = names[number] if number < len(names) else None
    return name.decode() if isinstance(name, bytes) else name
