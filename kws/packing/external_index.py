"""The index of shards that were packed by others: in a folder, at http(s):// or s3://, also where kws may not write.

    names of shards -> each read once, from start to end -> words, speakers, splits -> OUT/index

A shard's split is named by a folder or by a part of its file name (valid/0.tar, kws-dev-000001.tar). Where no name
does, the official hash rule on the speaker decides for each clip, so that one shard may hold clips of several splits.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from braceexpand import braceexpand

from kws.corpus import layout
from kws.corpus.layout import Folder, FolderCount, Layout, Reading
from kws.corpus.name_pattern import NamePattern
from kws.corpus.recording import NEGATIVES_FOLDER, NO_WORDS, NOISE_FOLDER, to_nfc
from kws.corpus.source import split_by_hash
from kws.corpus.split_names import SHARD_SPLITS, split_in
from kws.data import index as index_file
from kws.data.index import GROUPS, NEGATIVES, Column, Index, Shard, Split
from kws.data.shard_fetch import ShardSource
from kws.errors import UsageError, cannot_write
from kws.packing import scan, source_formats
from kws.transport import ResumingReader, RetryPolicy

_MANY_WORDS = 10
WORD_FILES = ("words.txt", "classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
"""Files beside the shards that list the words, one a line, in the order of numeric labels."""
RETRY_POLICY = RetryPolicy(timeout_s=20.0, delays_s=(1.0, 2.0, 4.0, 8.0))


@dataclasses.dataclass
class IndexReport:
    """What indexing reports beside the index: samples left out, each with the reason, and notes."""

    skipped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def index_shards(
    base: str,
    out: Path | None = None,
    patterns: Sequence[str] = (),
    split: str | None = None,
    words: Sequence[str] | None = None,
    done: Callable[[int, int], None] = lambda done, total: None,
    names: str = "",
) -> tuple[Index, IndexReport]:
    """Reads all shards below `base` and writes their index to `out`/index (default: beside them).

    `patterns`: names below `base` with {000..012}, or files that list names; required unless `base` is a folder.
    `split`: the split of all clips. `words`: all words of the corpus, in the order of numeric labels. `names`: which
    folder of a key is the word, the speaker or the split (kws.corpus.name_pattern). `done` is called
    with the number of shards read and of all shards. Raises UsageError; then nothing is written.
    """
    folder = _index_folder(base, out)
    is_same = _is_local(base) and Path(base).resolve() == folder.resolve()
    source = ShardSource(folder, "" if is_same else str(Path(base).absolute()) if _is_local(base) else base)
    shards = expand(base, patterns) if patterns else _find_shards(base)
    collector = _Collector(words if words is not None else _words_beside(base), split, names, IndexReport())
    for number, name in enumerate(shards):
        with open_shard(source, name) as file:
            is_noise = _split_from_name(name) == "noise"
            collector.add(name, scan.scan_shard(file, source.shown(name), collector.words, is_noise))
        done(number + 1, len(shards))
    index = _write(collector, source, folder)
    if _is_local(base):
        source_formats.save_sum_of_parts(index, Path(base))
    return index, collector.report


def shards_of(index: Index) -> scan.ShardAccess:
    """How `scan.verify` opens the shards of an index, wherever they are."""
    source = ShardSource(index.root, index.source)
    return scan.ShardAccess(lambda name: open_shard(source, name), source.shown)


# --- where the shards are -------------------------------------------------------------------------------------


def _is_local(base: str) -> bool:
    return "://" not in base and not base.startswith("pipe:")


def _index_folder(base: str, out: Path | None) -> Path:
    """The folder in which index/ is written. Raises UsageError."""
    if out is None and not _is_local(base):
        raise UsageError(f"{base}: not a folder, so the index needs a folder of its own; give --out DIR")
    if _is_local(base) and not Path(base).is_dir():
        raise UsageError(f"{base}: no such folder; wanted a folder of tar shards, http(s)://, s3:// or pipe:COMMAND")
    return Path(base) if out is None else out


def _find_shards(base: str) -> list[str]:
    """All tars below a folder, sorted by name, relative to it. Raises UsageError where there is none."""
    if not _is_local(base):
        raise UsageError(
            f"{base}: the shards' names are not known; give --shards 'train/{{000000..000012}}.tar', or a file that "
            "lists them"
        )
    root = Path(base)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tar") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    if not names:
        packed = next((path for ending in ("*.tar.gz", "*.tgz", "*.tar.zst") for path in root.rglob(ending)), None)
        hint = f"; {packed.name} is compressed, so that clips cannot be read one by one: gunzip it" if packed else ""
        raise UsageError(f"{base}: no .tar file below it, wanted tar shards{hint}")
    return names


def expand(base: str, patterns: Sequence[str]) -> list[str]:
    """Names of shards below `base`: {a..b} and {a,b} expanded, listing files read line by line, each name once."""
    names: list[str] = []
    for pattern in patterns:
        listing = Path(pattern)
        lines = listing.read_text(encoding="utf-8").split("\n") if _is_listing(listing) else [pattern]
        names += [_relative_name(base, name) for line in lines if line.strip() for name in _braces(line.strip())]
    return list(dict.fromkeys(names))


def _is_listing(path: Path) -> bool:
    return path.suffix != ".tar" and path.is_file()


def _braces(pattern: str) -> Iterator[str]:
    try:
        yield from braceexpand(pattern)
    except ValueError as error:
        raise UsageError(f"--shards {pattern}: {error}; wanted such as train/{{000000..000012}}.tar") from error


def _relative_name(base: str, name: str) -> str:
    """The name as it stands in the index: relative to `base`. Raises UsageError for a name outside it."""
    stem = base.rstrip("/") + "/"
    name = name.removeprefix(stem)
    if "://" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise UsageError(f"--shards {name}: not below {base}; give names relative to it")
    return name


def _split_from_name(name: str) -> str | None:
    """The split that a part of the file's name or else a folder (the nearest one) names; None where none does."""
    *folders, base = PurePosixPath(name).parts
    parts = [*reversed(re.split(r"[-_.]", base)), *reversed(folders)]
    return next((SHARD_SPLITS[part.lower()] for part in parts if part.lower() in SHARD_SPLITS), None)


def _words_beside(base: str) -> tuple[str, ...]:
    """The words of the class list that lies beside the shards; () where there is none."""
    listing = next((Path(base, name) for name in WORD_FILES if _is_local(base) and Path(base, name).is_file()), None)
    return read_words(str(listing)) if listing else ()


def read_words(given: str) -> tuple[str, ...]:
    """The words of a file with one word a line, or of a comma-separated list. Raises UsageError for a repeated word."""
    path = Path(given)
    if path.suffix == ".txt" and not path.is_file():
        raise UsageError(f"--words {given}: no such file; wanted one with a word a line, or the words between commas")
    text = path.read_text(encoding="utf-8-sig", errors="replace").split("\n") if path.is_file() else given.split(",")
    words = tuple(to_nfc(line.strip()) for line in text if line.strip())
    repeated = sorted({word for word in words if words.count(word) > 1})
    if repeated or not words:
        raise UsageError(
            f"--words {given}: {f'{repeated[0]} is listed twice' if repeated else 'empty'}; wanted each word once"
        )
    return words


# --- reading them ---------------------------------------------------------------------------------------------


@contextmanager
def open_shard(source: ShardSource, name: str) -> Iterator[scan.Readable]:
    """A shard, wherever it lies, to be read from start to end. Resumed after network faults."""
    timeout_s = RETRY_POLICY.timeout_s
    with ResumingReader(lambda offset: source.open(name, offset, timeout_s), RETRY_POLICY.delays_s) as reader:
        yield reader


# --- making the index -----------------------------------------------------------------------------------------


_COLUMN = {name: number for number, name in enumerate(index_file.COLUMNS)}


class _ScannedTable(NamedTuple):
    """A shard's clips: rows of the index (clips, columns), whose words and speakers are numbered as they came."""

    name: str
    table: Column
    bytes: int
    sha256: str


class _Collector:
    """The clips of all shards read so far. Words, speakers and folders in keys are numbered as they come, and
    understood and sorted at the end."""

    def __init__(self, words: Sequence[str], split: str | None, names: str, report: IndexReport) -> None:
        self._pattern = NamePattern(to_nfc(names)) if names else None
        if self._pattern and not self._pattern.is_for_paths:
            raise UsageError(f"--names {names!r}: wanted a pattern for whole keys, such as '{{speaker}}/{{word}}/{{}}'")
        self.words, self.report = tuple(words), report
        self._split, self._allowed = split, frozenset(words) | {*NO_WORDS}
        self._word_ids: dict[str | Folder, int] = {word: number for number, word in enumerate(words)}
        self._speaker_ids: dict[str, int] = {}
        self._folders: dict[Folder, FolderCount] = {}
        self._scanned: list[_ScannedTable] = []
        self._num_clips = dict.fromkeys(GROUPS, 0)
        self._tables: dict[str, list[Column]] = {name: [] for name in GROUPS}
        self._shards: dict[str, list[Shard]] = {name: [] for name in GROUPS}
        self._num_unassigned = 0  # clips with neither a split nor a speaker
        self._num_hashed = 0  # clips whose split is by the hash of the speaker

    def add(self, name: str, scanned: scan.ScannedShard) -> None:
        """Adds one shard's clips. Raises UsageError for a word that was not given."""
        self.report.skipped += scanned.left_out.values()
        for clip in scanned.clips:
            self._speaker_ids.setdefault(clip.speaker, len(self._speaker_ids))
            if clip.folder:
                count = self._folders.setdefault(_folder(clip), FolderCount())
                count.files, count.named = count.files + 1, count.named + bool(clip.speaker)
                count.speaker = count.speaker or clip.speaker
            elif clip.word not in self._word_ids:
                self._check_word(name, clip.key, clip.word)
            self._word_ids.setdefault(_word_token(clip), len(self._word_ids))
        numbers = {clip.word: self._word_ids[clip.word] for clip in scanned.clips if not clip.folder}
        numbers |= {clip.folder: self._word_ids[_folder(clip)] for clip in scanned.clips if clip.folder}
        clips = [dataclasses.replace(clip, word=clip.folder or clip.word) for clip in scanned.clips]
        table = scan.table_of_clips(clips, 0, numbers, self._speaker_ids)
        self._scanned.append(_ScannedTable(name, table, scanned.bytes, scanned.sha256))

    def _check_word(self, shard: str, key: str, word: str) -> None:
        if self.words and word not in self._allowed:
            raise UsageError(
                f"{shard}: sample {key}: the word is {word!r}, wanted one of the {len(self.words)} given: "
                f"{', '.join(self.words[:4])}, ..."
            )

    def finish(self, where: str) -> tuple[list[str], list[str], dict[str, Split]]:
        """Words (in the order given, else sorted), speakers (sorted) and splits. Raises UsageError where the folders in
        the keys may be read in several ways."""
        folders = Layout() if self._pattern else layout.understand(where, self._folders)
        self.report.notes += folders.notes
        readings = [self._read_token(folders, token) for token in self._word_ids]
        for reading in readings:
            self._check_word(where, "/".join((*reading.others, reading.word)), reading.word)
        words = list(self.words) or sorted({reading.word for reading in readings} - {*NO_WORDS})
        num_clips = sum(len(scanned.table) for scanned in self._scanned)
        if len(words) >= _MANY_WORDS and 2 * len(words) > num_clips:
            self.report.notes.append(f"{num_clips:,} clips have {len(words):,} words, such as {words[0]!r}: sentences?")
        old_speakers = list(self._speaker_ids)
        speakers = sorted({*old_speakers, *(reading.speaker for reading in readings if reading.speaker)})
        for scanned in self._scanned:
            clips = scanned.table[:, [_COLUMN["word"], _COLUMN["speaker"]]].astype(np.int64)
            pairs, which = np.unique(clips, axis=0, return_inverse=True)
            found = [self._clips_of(scanned.name, readings[word], old_speakers[speaker]) for word, speaker in pairs]
            self._add_to_splits(scanned, found, which.reshape(-1), words, speakers)
        return words, speakers, {
            name: scan.split_from_tables(name, self._tables[name], self._shards[name], len(words)) for name in GROUPS
        }  # fmt: skip

    def _read_token(self, folders: Layout, token: str | Folder) -> Reading:
        """What a clip's word was numbered by (see _word_token), understood."""
        if isinstance(token, str):
            return Reading(token)
        if not self._pattern:
            return folders.read(token) or Reading(token[-1])
        fields = self._pattern.parse("/".join((*token, "_")))
        if fields is None or (fields.split and not split_in(fields.split)):
            raise UsageError(f"--names {self._pattern.text!r} does not match the keys in {'/'.join(token)}/")
        return Reading(fields.word, fields.speaker, fields.split)

    def _add_to_splits(
        self, scanned: _ScannedTable, found: Sequence[_ClipsOf], which: npt.NDArray[np.int64], words: Sequence[str],
        speakers: Sequence[str],
    ) -> None:  # fmt: skip
        """Divides a shard's clips among the splits. which: (clips,), the place of each clip in `found`."""
        word_of = np.array([0 if one.word in NO_WORDS else words.index(one.word) for one in found], np.uint64)
        speaker_of = np.array([bisect.bisect_left(speakers, one.speaker) for one in found], np.uint64)
        counts = np.bincount(which, minlength=len(found))
        self._num_hashed += int(sum(counts[at] for at, one in enumerate(found) if one.how == "hashed"))
        self._num_unassigned += int(sum(counts[at] for at, one in enumerate(found) if one.how == "assumed"))
        for split in sorted({one.split for one in found}):
            rows = np.flatnonzero(np.array([one.split == split for one in found])[which])
            table, shards = scanned.table[rows], self._shards[split]
            table[:, _COLUMN["shard"]] = len(shards)
            table[:, _COLUMN["word"]], table[:, _COLUMN["speaker"]] = word_of[which[rows]], speaker_of[which[rows]]
            self._tables[split].append(table)
            shards.append(Shard(scanned.name, scanned.bytes, len(rows), self._num_clips[split], scanned.sha256))
            self._num_clips[split] += len(rows)

    def _clips_of(self, shard: str, reading: Reading, speaker: str) -> _ClipsOf:
        """Split, word and speaker of the clips with that reading of their key, and that speaker ("": unknown)."""
        speaker = speaker or reading.speaker
        if reading.word == NOISE_FOLDER:
            return _ClipsOf("noise", reading.word, speaker)
        known = self._split or _split_from_name(shard) or split_in(reading.split)
        if reading.word == NEGATIVES_FOLDER:
            return _ClipsOf(NEGATIVES[known or split_by_hash(speaker)], reading.word, speaker)
        if not known and speaker:
            return _ClipsOf(split_by_hash(speaker), reading.word, speaker, "hashed")
        return _ClipsOf(known or "train", reading.word, speaker, "given" if known else "assumed")

    def add_notes(self) -> None:
        """Reports clips whose split had to be assumed, and splits without clips."""
        if self._num_unassigned:
            self.report.notes.append(
                f"{self._num_unassigned} clips have neither a known speaker nor a split: used for training (or give "
                "--split, or name shards by their split)"
            )
        if self._num_hashed:
            self.report.notes.append(f"no split is given for {self._num_hashed:,} clips: by the hash of their speaker")
        empty = [name for name in ("train", "valid", "test") if not self._num_clips[name]]
        if empty:
            self.report.notes.append(f"no clips in {', '.join(empty)}")


class _ClipsOf(NamedTuple):
    """What clips of a shard have in common. how: the split is `given`, `hashed` from the speaker, or `assumed`."""

    split: str
    word: str
    speaker: str
    how: str = "given"


def _folder(clip: scan.ScannedClip) -> Folder:
    return tuple(to_nfc(clip.folder).split("/"))


def _word_token(clip: scan.ScannedClip) -> str | Folder:
    """What a clip's word is numbered by: the word, or the folder in its key."""
    return _folder(clip) if clip.folder else clip.word


def _write(collector: _Collector, source: ShardSource, folder: Path) -> Index:
    """Writes the index to a scratch folder and renames it whole, so that no index is ever visible half written."""
    words, speakers, splits = collector.finish(source.base or str(folder))
    if not words:
        raise UsageError(f"{source.base or folder}: no readable clip in its shards; nothing was written")
    collector.add_notes()
    scratch = folder / ".indexing"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        index_file.write(scratch, words, speakers, splits, source.base)
        if (folder / "index").exists():
            (folder / "index").replace(scratch / "old")
        (scratch / "index").replace(folder / "index")
    except OSError as error:
        raise UsageError(cannot_write(folder, error, "give another folder for the index with --out DIR")) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return index_file.load(folder)
