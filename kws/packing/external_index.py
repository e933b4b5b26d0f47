"""The index of shards that someone else packed: in a folder, at http(s):// or s3://, also where nobody may write.

    names of shards -> read through once, each -> words, speakers, splits -> OUT/index

A shard's split is that of a folder or part of its name (valid/0.tar, kws-dev-000001.tar). Where no name says any, the
official hash rule on the speaker decides clip by clip, so one shard may then serve several splits.
"""

from __future__ import annotations

import dataclasses
import http.client
import re
import shutil
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from braceexpand import braceexpand

from kws.corpus.recording import composed
from kws.corpus.source import NOISE_FOLDER, split_by_hash
from kws.data import index as index_file
from kws.data.index import SPLITS, Column, Index, Shard, Split
from kws.data.shard_fetch import ShardSource
from kws.errors import UsageError
from kws.packing import scan
from kws.transport import is_final

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "eval": "valid",
    "test": "test", "testing": "test",
    "noise": "noise", NOISE_FOLDER: "noise",
}  # fmt: skip
WORD_FILES = ("words.txt", "classes.txt", "classnames.txt", "class_names.txt", "labels.txt")
"""Beside the shards: what numbers as labels mean, a word a line."""

_TIMEOUT_S = 20.0
_DELAYS_S = (1.0, 2.0, 4.0, 8.0)


@dataclasses.dataclass
class Report:
    """What indexing has to say: samples left out, each with its reason, and things worth knowing."""

    skipped: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def index_shards(
    base: str,
    out: Path | None = None,
    patterns: Sequence[str] = (),
    split: str | None = None,
    words: Sequence[str] | None = None,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Index, Report]:
    """Reads all shards below `base` and writes their index to `out`/index (default: beside them).

    `patterns`: names below `base` with {000..012}, or files that list names; must be given where `base` is no folder.
    `split`: all clips belong to it. `words`: all there may be, in the order of their numbers. `done` is called with
    the shards read and their number. Raises UsageError; then nothing is written.
    """
    place = _place(base, out)
    source = ShardSource(
        place, "" if _is_same(base, place) else str(Path(base).absolute()) if _is_local(base) else base
    )
    names = expand(base, patterns) if patterns else _find(base)
    collector = _Collector(words if words is not None else _words_beside(base), split, Report())
    for number, name in enumerate(names):
        with open_shard(source, name) as file:
            collector.add(name, scan.scan(file, source.shown(name), collector.words, _split_of(name) == "noise"))
        done(number + 1, len(names))
    return _write(collector, source, place), collector.report


def shards_of(index: Index) -> scan.Shards:
    """How `scan.verify` reads the shards of an index, wherever they are."""
    source = ShardSource(index.root, index.source)
    return scan.Shards(lambda name: open_shard(source, name), source.shown)


# --- where the shards are -------------------------------------------------------------------------------------


def _is_local(base: str) -> bool:
    return "://" not in base and not base.startswith("pipe:")


def _is_same(base: str, place: Path) -> bool:
    return _is_local(base) and Path(base).resolve() == place.resolve()


def _place(base: str, out: Path | None) -> Path:
    """The folder for the index."""
    if out is None and not _is_local(base):
        raise UsageError(f"{base}: not a folder, so the index needs one of its own; give --out DIR")
    if _is_local(base) and not Path(base).is_dir():
        raise UsageError(f"{base}: no such folder; wanted a folder of tar shards, http(s)://, s3:// or pipe:COMMAND")
    return Path(base) if out is None else out


def _find(base: str) -> list[str]:
    """All tars below a folder, in the order of their names."""
    if not _is_local(base):
        raise UsageError(
            f"{base}: which shards are there? give --shards 'train/{{000000..000012}}.tar', or a file with their names"
        )
    root = Path(base)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.tar") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in PurePosixPath(name).parts)]
    if not names:
        packed = next((path for ending in ("*.tar.gz", "*.tgz", "*.tar.zst") for path in root.rglob(ending)), None)
        hint = f"; {packed.name} is compressed, which cannot be read at any place: gunzip it" if packed else ""
        raise UsageError(f"{base}: no .tar below it, wanted tar shards{hint}")
    return names


def expand(base: str, patterns: Sequence[str]) -> list[str]:
    """Names of shards below `base`: {a..b} and {a,b} spelled out, files read line by line, each name once."""
    names: list[str] = []
    for pattern in patterns:
        listing = Path(pattern)
        lines = listing.read_text(encoding="utf-8").split("\n") if _is_listing(listing) else [pattern]
        names += [_below(base, name) for line in lines if line.strip() for name in _braces(line.strip())]
    return list(dict.fromkeys(names))


def _is_listing(path: Path) -> bool:
    return path.suffix != ".tar" and path.is_file()


def _braces(pattern: str) -> Iterator[str]:
    try:
        yield from braceexpand(pattern)
    except ValueError as error:
        raise UsageError(f"--shards {pattern}: {error}; wanted such as train/{{000000..000012}}.tar") from error


def _below(base: str, name: str) -> str:
    """The name as the index has it: relative to `base`."""
    stem = base.rstrip("/") + "/"
    name = name.removeprefix(stem)
    if "://" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise UsageError(f"--shards {name}: not below {base}; give names relative to it")
    return name


def _split_of(name: str) -> str | None:
    """The split that a folder (the nearest counts) or a part of the file's name says."""
    *folders, base = PurePosixPath(name).parts
    parts = [*reversed(re.split(r"[-_.]", base)), *reversed(folders)]
    return next((SPLIT_NAMES[part.lower()] for part in parts if part.lower() in SPLIT_NAMES), None)


def _words_beside(base: str) -> tuple[str, ...]:
    """Those of a list of classes that lies beside the shards; () where there is none."""
    listing = next((Path(base, name) for name in WORD_FILES if _is_local(base) and Path(base, name).is_file()), None)
    return read_words(str(listing)) if listing else ()


def read_words(given: str) -> tuple[str, ...]:
    """A file with a word a line, or the words themselves between commas. Raises UsageError where one is there twice."""
    path = Path(given)
    if path.suffix == ".txt" and not path.is_file():
        raise UsageError(f"--words {given}: no such file; wanted one with a word a line, or the words between commas")
    text = path.read_text(encoding="utf-8-sig", errors="replace").split("\n") if path.is_file() else given.split(",")
    words = tuple(composed(line.strip()) for line in text if line.strip())
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice or not words:
        raise UsageError(
            f"--words {given}: {f'{twice[0]} is there twice' if twice else 'empty'}; wanted each word once"
        )
    return words


# --- reading them ---------------------------------------------------------------------------------------------


@contextmanager
def open_shard(source: ShardSource, name: str) -> Iterator[scan.Readable]:
    """A shard from wherever it lies, from its start to its end; what breaks off is taken up again where it did."""
    with _Resumed(source, name) as reader:
        yield reader


class _Resumed(ExitStack):
    """Reads on after a lost connection, a few times with growing delay; then the OSError is the reader's."""

    def __init__(self, source: ShardSource, name: str) -> None:
        super().__init__()
        self._source, self._name, self._at, self._delays = source, name, 0, iter(_DELAYS_S)
        self._fill: Callable[[memoryview], int] | None = None
        self._end: int | None = None

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end."""
        buffer, count = memoryview(bytearray(size)), 0
        while count < size:
            got = self._read_some(buffer[count:])
            if not got:
                break
            count += got
        return bytes(buffer[:count])

    def _read_some(self, buffer: memoryview) -> int:
        while True:
            try:
                if self._fill is None:
                    self._open()
                assert self._fill is not None
                got = self._fill(buffer)
                if not got and self._end not in (None, self._at):
                    raise OSError(f"ends after {self._at} of {self._end} bytes")
                self._at += got
                return got
            except (OSError, http.client.HTTPException) as error:
                self._wait(error)

    def _open(self) -> None:
        self.close()
        opened = self.enter_context(self._source.open(self._name, self._at, _TIMEOUT_S))
        self._fill, self._end = opened.readinto, opened.size
        passed = opened.start
        while passed < self._at:  # a server that cannot start in the middle
            passed += self._fill(memoryview(bytearray(min(1 << 20, self._at - passed)))) or self._at

    def _wait(self, error: OSError | http.client.HTTPException) -> None:
        """Before another try, or raises the error where none can help."""
        self._fill = None
        delay = next(self._delays, None)
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        if delay is None or is_final(error):
            raise error
        time.sleep(delay)


# --- making the index -----------------------------------------------------------------------------------------


class _Collector:
    """Rows of all shards so far, by split; words and speakers are numbered as they come and sorted at the end."""

    def __init__(self, words: Sequence[str], split: str | None, report: Report) -> None:
        self.words, self.report = tuple(words), report
        self._split, self._allowed = split, frozenset(words) | {NOISE_FOLDER}
        self._word_ids = {word: number for number, word in enumerate(words)}
        self._speaker_ids: dict[str, int] = {}
        self._tables: dict[str, list[Column]] = {name: [] for name in SPLITS}
        self._shards: dict[str, list[Shard]] = {name: [] for name in SPLITS}
        self._clips = dict.fromkeys(SPLITS, 0)
        self._strangers = 0  # clips of a mixed shard whose speaker nobody knows

    def add(self, name: str, found: scan.Scan) -> None:
        """One shard's clips, to the splits they belong to."""
        self.report.skipped += found.left_out.values()
        by_split: dict[str, list[scan.Row]] = {}
        for row in found.rows:
            by_split.setdefault(self._split_of(name, row), []).append(row)
        for split, rows in by_split.items():
            self._number(name, split, rows)
            self._tables[split].append(scan.table(rows, len(self._shards[split]), self._word_ids, self._speaker_ids))
            self._shards[split].append(Shard(name, found.bytes, len(rows), self._clips[split], found.sha256))
            self._clips[split] += len(rows)

    def _split_of(self, name: str, row: scan.Row) -> str:
        if row.word == NOISE_FOLDER:
            return "noise"
        known = self._split or _split_of(name)
        if known is None and row.speaker:
            return split_by_hash(row.speaker)
        self._strangers += known is None
        return known or "train"

    def _number(self, name: str, split: str, rows: Sequence[scan.Row]) -> None:
        """Words and speakers that are new get a number; in noise every word is 0."""
        for row in rows:
            self._speaker_ids.setdefault(row.speaker, len(self._speaker_ids))
            if row.word in self._word_ids:
                continue
            if self.words and row.word not in self._allowed:
                raise UsageError(
                    f"{name}: sample {row.key}: the word is {row.word!r}, wanted one of the {len(self.words)} given: "
                    f"{', '.join(self.words[:4])}, ..."
                )
            self._word_ids[row.word] = 0 if split == "noise" else len(self._word_ids.keys() - {NOISE_FOLDER})

    def finish(self) -> tuple[list[str], list[str], dict[str, Split]]:
        """Words (in the order given, else sorted), speakers (sorted) and splits."""
        named = [word for word in self._word_ids if word != NOISE_FOLDER or word in self.words]
        words = list(self.words) or sorted(named)
        speakers = sorted(self._speaker_ids)
        for split, tables in self._tables.items():
            for table in tables:
                if split != "noise":
                    _renumber(table, "word", [words.index(word) for word in named])
                _renumber(table, "speaker", [speakers.index(speaker) for speaker in self._speaker_ids])
        return words, speakers, {
            name: scan.split_of_tables(name, self._tables[name], self._shards[name], len(words)) for name in SPLITS
        }  # fmt: skip

    def say(self) -> None:
        """Notes on how the splits came about."""
        if self._strangers:
            self.report.notes.append(
                f"{self._strangers} clips with neither speaker nor split: taken for training (else --split NAME)"
            )
        absent = [name for name in ("train", "valid", "test") if not self._clips[name]]
        if absent:
            self.report.notes.append(f"no clips in {', '.join(absent)}")


def _renumber(table: Column, column: str, numbers: Sequence[int]) -> None:
    at = list(index_file.COLUMNS).index(column)
    table[:, at] = np.array(numbers, np.uint64)[table[:, at].astype(np.int64)]


def _write(collector: _Collector, source: ShardSource, place: Path) -> Index:
    """The index to a scratch folder, then to its place in one move: none is ever seen half written."""
    words, speakers, splits = collector.finish()
    if not words:
        raise UsageError(f"{source.base or place}: no readable clip in its shards; nothing was written")
    collector.say()
    scratch = place / ".indexing"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        index_file.write(scratch, words, speakers, splits, source.base)
        if (place / "index").exists():
            (place / "index").replace(scratch / "old")
        (scratch / "index").replace(place / "index")
    except OSError as error:
        raise UsageError(
            f"{place}: cannot be written ({error.strerror}); give the index a place with --out DIR"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return index_file.load(place)
