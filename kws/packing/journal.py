"""What a packing has done so far, in DIR/.packing: so that one that was killed goes on, and nothing is kept in memory.

    decoded recordings, in the sources' order -> settled: twice there, keys, splits -> dealt to shards -> shards written

An sqlite database beside the scratch files of the samples. A row counts once its samples lie there; where a packing
goes on, they are compared with its `sound`, so that what a power cut left is found. The database is locked while its
packing lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from kws.corpus.source import NOISE_FOLDER
from kws.errors import UsageError

_VERSION = "1"
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS recordings (
    seq INTEGER PRIMARY KEY, mark INTEGER, name TEXT, origin TEXT, word TEXT, speaker TEXT,
    file TEXT, start INTEGER, samples INTEGER, sound INTEGER, fault TEXT,
    base TEXT, place INTEGER, key TEXT, split TEXT, taken INTEGER
);
CREATE TABLE IF NOT EXISTS shards (
    split TEXT, number INTEGER, digest TEXT, clips INTEGER, size INTEGER, sha256 TEXT, rows BLOB,
    PRIMARY KEY (split, number)
);
"""
_OWN = ("journal", "lock")
_SIGNED = 1 << 63
"""sqlite's integers have a sign: 64-bit numbers are kept less this, which leaves their order as it is."""


class Decoded(NamedTuple):
    """One recording: its place in the sources, what it was made of, where its samples lie, or its fault.

    `mark` tells files of other contents apart. `start` and `samples` in samples of the scratch file. `base` is its key,
    if no other clip has the same; `place` is where the keyed shuffle puts it.
    """

    seq: int
    mark: int
    name: str
    origin: str
    word: str
    speaker: str
    file: str
    start: int
    samples: int
    sound: int
    fault: str | None
    base: str
    place: int


class Clip(NamedTuple):
    """One clip on its way to a shard."""

    key: str
    name: str
    word: str
    speaker: str
    file: str
    start: int
    samples: int
    sound: int


class Written(NamedTuple):
    """A shard that lies whole in the scratch folder: its bytes in `size`; `rows`: (clips, columns) uint64, in the order
    of the index's columns, as bytes."""

    split: str
    number: int
    digest: str
    clips: int
    size: int
    sha256: str
    rows: bytes

    @property
    def name(self) -> str:
        """Below the corpus folder."""
        return f"{self.split}/{self.number:06d}.tar"


def _locked(folder: Path) -> TextIO:
    """One packing a folder, where the file system knows such locks."""
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"{folder.parent}: another kws pack is at work there; wait for its end") from error
    except OSError:
        pass
    return file


class Journal:
    """Of the packing into a folder. `goes_on`: there was one of the same sources; `anew`: there was one of others."""

    def __init__(self, folder: Path) -> None:
        """Opens or makes it. Raises UsageError where another process has it."""
        self.folder, self.goes_on, self.anew = folder, False, False
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            (folder / "journal").unlink()  # not a database: left by another version
            self._open()
        self._last = -1

    def begin(self, **facts: str) -> None:
        """Goes on where a packing with the same facts stopped, else forgets what another one left."""
        facts["version"] = _VERSION
        self.goes_on = {name: self.fact(name) for name in facts} == facts
        self.anew = not self.goes_on and self.fact("version") is not None
        if not self.goes_on:
            self._wipe(facts)
        self._forget_torn()
        self._last = int(self._one("SELECT coalesce(max(seq), -1) FROM recordings") or 0)

    def _open(self) -> None:
        # Without sqlite's own locks, which network disks may not have; so without its write-ahead log.
        address = (self.folder / "journal").absolute().as_uri() + "?nolock=1"
        self._db = sqlite3.connect(address, uri=True, isolation_level=None)
        try:
            self._db.executescript("PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=NORMAL;")
            self._db.executescript(_TABLES)
        except sqlite3.Error:
            self._db.close()
            raise

    def _wipe(self, facts: dict[str, str]) -> None:
        for table in ("facts", "recordings", "shards"):
            self._db.execute(f"DELETE FROM {table}")
        self._clear()
        for name, value in facts.items():
            self.note(name, value)

    def _clear(self) -> None:
        """Removes all but the journal."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(_OWN):
                path.unlink()

    def _forget_torn(self) -> None:
        """Rows whose samples are not all there."""
        for (file,) in self._db.execute("SELECT DISTINCT file FROM recordings WHERE fault IS NULL").fetchall():
            path = self.folder / file
            size = path.stat().st_size if path.exists() else 0
            self._db.execute("DELETE FROM recordings WHERE file = ? AND 2 * (start + samples) > ?", (file, size))

    def close(self) -> None:
        """Leaves all as it is, for a packing that goes on."""
        self._db.close()
        self._lock.close()

    def remove(self) -> None:
        """With the whole scratch folder; itself last, as it knows what the folder is; where it is gone, all is done."""
        self._clear()
        self._db.close()
        for name in ("lock", "journal-journal", "journal"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _one(self, query: str, *values: object) -> int | str | None:
        row = self._db.execute(query, values).fetchone()
        return row[0] if row else None

    def fact(self, name: str) -> str | None:
        """Something noted about the packing."""
        found = self._one("SELECT value FROM facts WHERE name = ?", name)
        return None if found is None else str(found)

    def note(self, name: str, value: str) -> None:
        """Keeps a fact."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def drop(self, name: str) -> None:
        """Forgets a fact."""
        self._db.execute("DELETE FROM facts WHERE name = ?", (name,))

    # --- recordings -------------------------------------------------------------------------------------------

    def has(self, seq: int, mark: int) -> bool:
        """Whether the recording at that place of the sources was decoded, and is still the same."""
        return seq <= self._last and self._one("SELECT mark FROM recordings WHERE seq = ?", seq) == mark - _SIGNED

    def add(self, rows: Sequence[Decoded]) -> None:
        """All or none of them."""
        marks = ", ".join("?" * len(Decoded._fields))
        self._db.execute("BEGIN")
        self._db.executemany(
            f"INSERT OR REPLACE INTO recordings ({', '.join(Decoded._fields)}) VALUES ({marks})",
            [row._replace(mark=row.mark - _SIGNED, sound=row.sound - _SIGNED, place=row.place - _SIGNED)
             for row in rows],
        )  # fmt: skip
        self._db.execute("COMMIT")

    def settle(self, count: int, split_of: Callable[[str, str, str], str], suffix: Callable[[str], str]) -> None:
        """All `count` recordings are there: decides splits by (name, word, speaker), takes the first where a name is
        there twice, and gives clips of one key different ones: the first name keeps it, the others get a suffix."""
        self._db.create_function("split_of", 3, split_of, deterministic=True)
        self._db.create_function("suffix", 1, suffix, deterministic=True)
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM recordings WHERE seq >= ?", (count,))
        self._db.execute("CREATE INDEX IF NOT EXISTS by_name ON recordings (name)")
        self._db.execute("CREATE INDEX IF NOT EXISTS by_base ON recordings (base)")
        self._db.execute(
            "UPDATE recordings SET split = split_of(name, word, speaker), taken = fault IS NULL AND NOT EXISTS ("
            "SELECT 1 FROM recordings AS first WHERE first.name = recordings.name AND first.seq < recordings.seq "
            "AND first.fault IS NULL)"
        )
        self._db.execute(
            "UPDATE recordings SET key = CASE WHEN EXISTS ("
            "SELECT 1 FROM recordings AS first WHERE first.taken AND first.base = recordings.base "
            "AND first.name < recordings.name) THEN base || suffix(name) ELSE base END WHERE taken"
        )
        self._db.execute("COMMIT")

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """(origin, name, why) of what gave no sound, in the sources' order."""
        yield from self._db.execute("SELECT origin, name, fault FROM recordings WHERE fault IS NOT NULL ORDER BY seq")

    def twice(self) -> Iterator[tuple[str, str, str, bool]]:
        """(origin, name, origin of the first, whether it sounds the same) of what has the name of an earlier one."""
        query = """
            SELECT again.origin, again.name, first.origin, again.sound = first.sound AND again.samples = first.samples
            FROM recordings AS again JOIN recordings AS first ON first.name = again.name AND first.taken
            WHERE again.fault IS NULL AND NOT again.taken ORDER BY again.seq
        """
        for origin, name, first, same in self._db.execute(query):
            yield origin, name, first, bool(same)

    def leave_out(self, names: Iterable[str]) -> None:
        """Clips that are in the corpus already."""
        self._db.execute("BEGIN")
        self._db.executemany("UPDATE recordings SET taken = 0 WHERE name = ?", [(name,) for name in names])
        self._db.execute("COMMIT")

    def has_name(self, name: str) -> bool:
        """Whether a recording of that name gave sound."""
        return self._one("SELECT 1 FROM recordings WHERE name = ? AND fault IS NULL", name) is not None

    def count(self, split: str | None = None) -> int:
        """Clips of a split, or of all."""
        where = "taken" if split is None else "taken AND split = ?"
        return int(self._one(f"SELECT count(*) FROM recordings WHERE {where}", *([split] if split else [])) or 0)

    def count_faults(self) -> int:
        """Recordings that gave no sound."""
        return int(self._one("SELECT count(*) FROM recordings WHERE fault IS NOT NULL") or 0)

    def words(self) -> list[str]:
        """Sorted, without the noise."""
        found = self._db.execute("SELECT DISTINCT word FROM recordings WHERE taken AND word != ?", (NOISE_FOLDER,))
        return sorted(word for (word,) in found)

    def speakers(self) -> list[str]:
        """Sorted; "" where clips have none."""
        return sorted(speaker for (speaker,) in self._db.execute("SELECT DISTINCT speaker FROM recordings WHERE taken"))

    def clips(self, split: str) -> Iterator[Clip]:
        """In the order in which they go to shards."""
        query = f"SELECT {', '.join(Clip._fields)} FROM recordings WHERE taken AND split = ? ORDER BY place, key"
        for row in self._db.execute(query, (split,)):
            clip = Clip(*row)
            yield clip._replace(sound=clip.sound + _SIGNED)

    def name_at(self, split: str, row: int) -> str:
        """Of the clip of that number in `clips`."""
        query = "SELECT name FROM recordings WHERE taken AND split = ? ORDER BY place, key LIMIT 1 OFFSET ?"
        return str(self._one(query, split, row))

    # --- shards -----------------------------------------------------------------------------------------------

    def add_shard(self, shard: Written) -> None:
        """A shard is written."""
        self._db.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?, ?, ?)", shard)

    def shards(self, split: str | None = None) -> Iterator[Written]:
        """Those written, in order."""
        where, values = ("WHERE split = ?", (split,)) if split else ("", ())
        for row in self._db.execute(f"SELECT * FROM shards {where} ORDER BY split, number", values):
            yield Written(*row)

    def count_in_shards(self, split: str) -> int:
        """Clips of a split's shards."""
        return int(self._one("SELECT sum(clips) FROM shards WHERE split = ?", split) or 0)

    def is_written(self, split: str, number: int, digest: str) -> bool:
        """Whether that very shard was written before, and lies there whole."""
        row = self._db.execute(
            "SELECT size FROM shards WHERE split = ? AND number = ? AND digest = ?", (split, number, digest)
        ).fetchone()
        path = self.folder / f"{split}/{number:06d}.tar"
        with contextlib.suppress(OSError):
            return row is not None and path.stat().st_size == row[0]
        return False

    def forget_shards(self, split: str, first: int, last: int | None = None) -> None:
        """Those from one number to another, or all from there on: left by a packing with other options."""
        end = _SIGNED - 1 if last is None else last
        self._db.execute("DELETE FROM shards WHERE split = ? AND number BETWEEN ? AND ?", (split, first, end))


def digest(*parts: object) -> str:
    """What a shard is made of, as text."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
