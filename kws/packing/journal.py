"""The progress of a packing, in DIR/.packing: a killed packing resumes from it, and memory does not grow with the
corpus.

    decoded recordings, in the order of the sources -> splits, duplicates, keys -> grouped into shards -> shards written

An sqlite database beside the scratch files that hold the samples. A row is added after its samples were written. When a
packing resumes, samples are compared with the row's hash `sound`, which finds what a power failure damaged. The
database is locked while its packing runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from kws.corpus.recording import NO_WORDS
from kws.errors import UsageError

_VERSION = "4"
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS recordings (
    seq INTEGER PRIMARY KEY, mark INTEGER, name TEXT, origin TEXT, word TEXT, speaker TEXT,
    file TEXT, start INTEGER, samples INTEGER, sound INTEGER, fault TEXT,
    base TEXT, place INTEGER, remarks TEXT, source TEXT, given TEXT, key TEXT, split TEXT, taken INTEGER
);
CREATE TABLE IF NOT EXISTS shards (
    split TEXT, number INTEGER, digest TEXT, clips INTEGER, size INTEGER, sha256 TEXT, rows BLOB,
    PRIMARY KEY (split, number)
);
"""
_GIVEN = (
    "coalesce((SELECT other.given FROM recordings AS other WHERE other.name = recordings.name AND other.given != '' "
    "ORDER BY other.seq DESC LIMIT 1), '')"
)
"""The split that the sources give a recording: the last of those with its name. It needs the index by_name."""
_JOURNAL_FILES = ("journal", "lock")
"""What the names of the journal's own files begin with."""
_HAS_WORD = "word NOT IN ({})".format(", ".join(f"'{name}'" for name in NO_WORDS))
_EXAMPLES = 3
_SIGNED = 1 << 63
"""Subtracted from unsigned 64-bit numbers before they are stored, as sqlite's integers are signed. Keeps their
order."""


class DecodedRecording(NamedTuple):
    """One decoded recording, or the reason `fault` why it could not be decoded.

    seq: position in the sources. mark: hash of everything it was made from, so that a changed file is noticed.
    file, start, samples: the scratch file with its samples, the first one and their number. sound: hash of the samples.
    base: its key in the shards, unless another clip has the same. place: sort key of the shuffle.
    remarks: what was fixed or looks implausible (kws.audio.remarks), one a line. source: the format of its file.
    given: the split that its source gives; "": none.
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
    remarks: str = ""
    source: str = ""
    given: str = ""


class Clip(NamedTuple):
    """One clip to be written to a shard; the fields are those of DecodedRecording."""

    key: str
    name: str
    word: str
    speaker: str
    file: str
    start: int
    samples: int
    sound: int


class WrittenShard(NamedTuple):
    """A finished shard in the scratch folder. `size` in bytes; `rows`: its rows of the index, (clips, columns) uint64
    in the order of COLUMNS, as bytes; `digest`: see `contents_digest`."""

    split: str
    number: int
    digest: str
    clips: int
    size: int
    sha256: str
    rows: bytes

    @property
    def name(self) -> str:
        """Its path below the corpus folder."""
        return f"{self.split}/{self.number:06d}.tar"


def _lock(folder: Path) -> TextIO:
    """The locked file that keeps a second packing out of the folder, where the file system supports locks."""
    file = (folder / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"{folder.parent}: in use by another kws pack; wait until it has finished") from error
    except OSError:
        pass
    return file


class Journal:
    """The journal of the packing into a folder, and that packing's scratch folder.

    resumed: an unfinished packing of the same sources was found. discarded: one of other sources was, and is removed.
    """

    def __init__(self, folder: Path) -> None:
        """Opens or creates it. Raises UsageError where another process uses it."""
        self.folder, self.resumed, self.discarded = folder, False, False
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            (folder / "journal").unlink()  # not a database: written by another version
            self._open()
        self._last_seq = -1

    def begin(self, **facts: str) -> None:
        """Resumes the packing with the same facts, else removes what another packing left."""
        facts["version"] = _VERSION
        self.resumed = {name: self.get_fact(name) for name in facts} == facts
        self.discarded = not self.resumed and self.get_fact("version") is not None
        if not self.resumed:
            self._reset(facts)
        self._delete_incomplete()
        self._last_seq = int(self._one("SELECT coalesce(max(seq), -1) FROM recordings") or 0)

    def _open(self) -> None:
        # Without sqlite's own locks, which network file systems may lack, and so without its write-ahead log.
        address = (self.folder / "journal").absolute().as_uri() + "?nolock=1"
        self._db = sqlite3.connect(address, uri=True, isolation_level=None)
        try:
            self._db.executescript("PRAGMA journal_mode=TRUNCATE; PRAGMA synchronous=NORMAL;")
            self._db.executescript(_TABLES)
        except sqlite3.Error:
            self._db.close()
            raise

    def _reset(self, facts: dict[str, str]) -> None:
        for table in ("facts", "recordings", "shards"):
            self._db.execute(f"DROP TABLE {table}")
        self._db.executescript(_TABLES)  # another version's have other columns
        self._clear()
        for name, value in facts.items():
            self.set_fact(name, value)

    def _clear(self) -> None:
        """Removes everything in the scratch folder except the journal."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(_JOURNAL_FILES):
                path.unlink()

    def _delete_incomplete(self) -> None:
        """Deletes rows whose samples were not all written, and faults, which may be gone: a file was replaced, ffmpeg
        was installed."""
        self._db.execute("DELETE FROM recordings WHERE fault IS NOT NULL")
        for (file,) in self._db.execute("SELECT DISTINCT file FROM recordings WHERE fault IS NULL").fetchall():
            path = self.folder / file
            size = path.stat().st_size if path.exists() else 0
            self._db.execute("DELETE FROM recordings WHERE file = ? AND 2 * (start + samples) > ?", (file, size))

    def close(self) -> None:
        """Keeps the scratch folder, for a packing that resumes."""
        self._db.close()
        self._lock.close()

    def remove(self) -> None:
        """Removes the scratch folder; the journal last, because the other files cannot be identified without it."""
        self._clear()
        self._db.close()
        for name in ("lock", "journal-journal", "journal"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _one(self, query: str, *values: object) -> int | str | None:
        row = self._db.execute(query, values).fetchone()
        return row[0] if row else None

    def get_fact(self, name: str) -> str | None:
        """A text stored about the packing; None where there is none of that name."""
        found = self._one("SELECT value FROM facts WHERE name = ?", name)
        return None if found is None else str(found)

    def set_fact(self, name: str, value: str) -> None:
        """Stores a text about the packing."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def delete_fact(self, name: str) -> None:
        """Deletes a stored text."""
        self._db.execute("DELETE FROM facts WHERE name = ?", (name,))

    # --- recordings -------------------------------------------------------------------------------------------

    def is_decoded(self, seq: int, mark: int) -> bool:
        """Whether the recording at that position of the sources was decoded, and has not changed since."""
        return seq <= self._last_seq and self._one("SELECT mark FROM recordings WHERE seq = ?", seq) == mark - _SIGNED

    def add_recordings(self, rows: Sequence[DecodedRecording]) -> None:
        """Adds all of them, in one transaction."""
        marks = ", ".join("?" * len(DecodedRecording._fields))
        self._db.execute("BEGIN")
        self._db.executemany(
            f"INSERT OR REPLACE INTO recordings ({', '.join(DecodedRecording._fields)}) VALUES ({marks})",
            [row._replace(mark=row.mark - _SIGNED, sound=row.sound - _SIGNED, place=row.place - _SIGNED)
             for row in rows],
        )  # fmt: skip
        self._db.execute("COMMIT")

    def assign_clips(
        self, count: int, split_of: Callable[[str, str, str, str], str], suffix: Callable[[str], str]
    ) -> None:
        """Decides which of the `count` decoded recordings become clips, and their splits and keys.

        The split is `split_of(name, word, speaker, given)`; given: by the last source that gives the recording of that
        name a split, else "". Of recordings with the same name the first becomes a clip. Of
        clips with the same key the first by name keeps it; `suffix(name)` is appended to the others.
        """
        self._db.create_function("split_of", 4, split_of, deterministic=True)
        self._db.create_function("suffix", 1, suffix, deterministic=True)
        self._db.execute("BEGIN")
        self._db.execute("DELETE FROM recordings WHERE seq >= ?", (count,))
        self._db.execute("CREATE INDEX IF NOT EXISTS by_name ON recordings (name)")
        self._db.execute("CREATE INDEX IF NOT EXISTS by_base ON recordings (base)")
        self._db.execute(
            f"UPDATE recordings SET split = split_of(name, word, speaker, {_GIVEN}), "
            "taken = fault IS NULL AND NOT EXISTS (SELECT 1 FROM recordings AS first "
            "WHERE first.name = recordings.name AND first.seq < recordings.seq AND first.fault IS NULL)"
        )
        self._db.execute(
            "UPDATE recordings SET key = CASE WHEN EXISTS ("
            "SELECT 1 FROM recordings AS first WHERE first.taken AND first.base = recordings.base "
            "AND first.name < recordings.name) THEN base || suffix(name) ELSE base END WHERE taken"
        )
        self._db.execute("COMMIT")

    def count_without_given_split(self) -> int:
        """Number of clips for training whose sources give no split."""
        return int(self._one(f"SELECT count(*) FROM recordings WHERE taken AND split = 'train' AND {_GIVEN} = ''") or 0)

    def faults(self) -> Iterator[tuple[str, str, str]]:
        """(origin, name, reason) of recordings that could not be decoded, in the order of the sources."""
        yield from self._db.execute("SELECT origin, name, fault FROM recordings WHERE fault IS NOT NULL ORDER BY seq")

    def remarks(self) -> dict[str, tuple[int, list[str]]]:
        """The number of clips of each remark, and the names of the first three of them, in the order of the sources."""
        self._db.execute("CREATE INDEX IF NOT EXISTS by_remarks ON recordings (remarks, seq) WHERE remarks != ''")
        found = dict[str, tuple[int, list[tuple[int, str]]]]()
        which = "FROM recordings WHERE remarks != '' AND taken"
        for together, number in self._db.execute(f"SELECT remarks, count(*) {which} GROUP BY remarks").fetchall():
            query = f"SELECT seq, name {which} AND remarks = ? ORDER BY seq LIMIT {_EXAMPLES}"
            examples = self._db.execute(query, (together,)).fetchall()
            for remark in together.split("\n"):
                count, names = found.get(remark, (0, []))
                found[remark] = count + number, sorted(names + examples)[:_EXAMPLES]
        return {remark: (count, [name for _, name in names]) for remark, (count, names) in found.items()}

    def remarked(self) -> Iterator[tuple[str, str, str]]:
        """(origin, name, remark) of every clip with a remark, in the order of the sources."""
        query = "SELECT origin, name, remarks FROM recordings WHERE remarks != '' AND taken ORDER BY seq"
        for origin, name, together in self._db.execute(query):
            yield from ((origin, name, remark) for remark in together.split("\n"))

    def duplicates(self) -> Iterator[tuple[str, str, str, bool]]:
        """(origin, name, origin of the first, whether the samples are equal) of recordings with the name of an earlier
        one."""
        query = """
            SELECT later.origin, later.name, first.origin, later.sound = first.sound AND later.samples = first.samples
            FROM recordings AS later JOIN recordings AS first ON first.name = later.name AND first.taken
            WHERE later.fault IS NULL AND NOT later.taken ORDER BY later.seq
        """
        for origin, name, first, same in self._db.execute(query):
            yield origin, name, first, bool(same)

    def exclude(self, names: Iterable[str]) -> None:
        """Takes back clips by name, such as those that the corpus has already."""
        self._db.execute("BEGIN")
        self._db.executemany("UPDATE recordings SET taken = 0 WHERE name = ?", [(name,) for name in names])
        self._db.execute("COMMIT")

    def has_name(self, name: str) -> bool:
        """Whether a recording of that name was decoded."""
        return self._one("SELECT 1 FROM recordings WHERE name = ? AND fault IS NULL", name) is not None

    def index_names(self) -> None:
        """Makes `has_name` and `name_without_ending` fast."""
        self._db.execute("CREATE INDEX IF NOT EXISTS by_name ON recordings (name)")

    def name_without_ending(self, stem: str) -> str | None:
        """The name of a decoded recording that is `stem` and an ending; None where there is none."""
        found = self._one(
            "SELECT name FROM recordings WHERE name > ? AND name < ? AND instr(substr(name, ?), '/') = 0 "
            "AND fault IS NULL", f"{stem}.", f"{stem}/", len(stem) + 1,
        )  # fmt: skip
        return None if found is None else str(found)

    def example(self) -> str:
        """The name of a recording of a word; "" where there is none."""
        found = self._one(f"SELECT name FROM recordings WHERE fault IS NULL AND {_HAS_WORD}")
        return "" if found is None else str(found)

    def count(self, split: str | None = None) -> int:
        """Number of clips in a split, or in all splits."""
        where = "taken" if split is None else "taken AND split = ?"
        return int(self._one(f"SELECT count(*) FROM recordings WHERE {where}", *([split] if split else [])) or 0)

    def count_faults(self) -> int:
        """Number of recordings that could not be decoded."""
        return int(self._one("SELECT count(*) FROM recordings WHERE fault IS NOT NULL") or 0)

    def words(self) -> list[str]:
        """The words of all clips, sorted."""
        found = self._db.execute(f"SELECT DISTINCT word FROM recordings WHERE taken AND {_HAS_WORD}")
        return sorted(word for (word,) in found)

    def speakers(self) -> list[str]:
        """The speakers of all clips, sorted; "" stands for an unknown speaker."""
        return sorted(speaker for (speaker,) in self._db.execute("SELECT DISTINCT speaker FROM recordings WHERE taken"))

    def count_cells(self) -> dict[tuple[str, str], int]:
        """(word, split) -> number of clips."""
        query = f"SELECT word, split, count(*) FROM recordings WHERE taken AND {_HAS_WORD} GROUP BY word, split"
        return {(word, split): clips for word, split, clips in self._db.execute(query)}

    def source_formats(self) -> dict[tuple[str, str], dict[str, int]]:
        """(word, split) -> format of the source file -> number of clips."""
        columns = "word, split, source"
        query = f"SELECT {columns}, count(*) FROM recordings WHERE taken AND {_HAS_WORD} GROUP BY {columns}"
        found: dict[tuple[str, str], dict[str, int]] = {}
        for word, split, source, clips in self._db.execute(query):
            found.setdefault((word, split), {})[source] = clips
        return found

    def count_unknown_speakers(self) -> int:
        """Number of clips of words by unknown speakers."""
        query = f"SELECT count(*) FROM recordings WHERE taken AND {_HAS_WORD} AND speaker = ''"
        return int(self._one(query) or 0)

    def largest_speaker(self) -> tuple[str, int]:
        """The speaker with most clips, and their number; ("", 0) where none is known."""
        query = (
            f"SELECT speaker, count(*) AS clips FROM recordings WHERE taken AND {_HAS_WORD} AND speaker != ''"
            " GROUP BY speaker ORDER BY clips DESC, speaker LIMIT 1"
        )
        return self._db.execute(query).fetchone() or ("", 0)

    def units(
        self, unit_of: Callable[[str, str], str], words: Sequence[str]
    ) -> Iterator[tuple[str, str, str, int, str]]:
        """(unit, word, split, clips, speaker) of all clips of the units that say one of the words; one for each unit
        and word.

        `unit_of(name, speaker)`: what stays together in one split. Clips of one unit have one split and one speaker.
        """
        self._db.create_function("unit_of", 2, unit_of, deterministic=True)
        self._db.executescript(
            "DROP TABLE IF EXISTS chosen_words; CREATE TABLE chosen_words (word TEXT PRIMARY KEY);"
            "DROP TABLE IF EXISTS chosen_units; CREATE TABLE chosen_units (unit TEXT PRIMARY KEY);"
        )
        self._db.executemany("INSERT INTO chosen_words VALUES (?)", [(word,) for word in words])
        self._db.execute(
            "INSERT OR IGNORE INTO chosen_units SELECT unit_of(name, speaker) FROM recordings"
            " WHERE taken AND word IN (SELECT word FROM chosen_words)"
        )
        yield from self._db.execute(
            "SELECT unit_of(name, speaker) AS unit, word, min(split), count(*), max(speaker) FROM recordings"
            f" WHERE taken AND {_HAS_WORD} AND unit IN (SELECT unit FROM chosen_units)"
            " GROUP BY unit, word ORDER BY unit, word"
        )
        self._db.executescript("DROP TABLE chosen_words; DROP TABLE chosen_units;")

    def move_units(self, unit_of: Callable[[str, str], str], moves: Mapping[str, str]) -> None:
        """Puts units (see `units`) into other splits: unit -> split."""

        def moved(name: str, speaker: str, split: str) -> str:
            return moves.get(unit_of(name, speaker), split)

        self._db.create_function("moved", 3, moved, deterministic=True)
        self._db.execute("BEGIN")
        self._db.execute(
            f"UPDATE recordings SET split = moved(name, speaker, split) WHERE {_HAS_WORD} AND"
            " moved(name, speaker, split) != split"
        )
        self._db.execute("COMMIT")

    def clips(self, split: str) -> Iterator[Clip]:
        """The clips of a split, in the shuffled order in which they are written to shards."""
        query = f"SELECT {', '.join(Clip._fields)} FROM recordings WHERE taken AND split = ? ORDER BY place, key"
        for row in self._db.execute(query, (split,)):
            clip = Clip(*row)
            yield clip._replace(sound=clip.sound + _SIGNED)

    def name_at(self, split: str, row: int) -> str:
        """Name of the clip that `clips(split)` yields at that position."""
        query = "SELECT name FROM recordings WHERE taken AND split = ? ORDER BY place, key LIMIT 1 OFFSET ?"
        return str(self._one(query, split, row))

    # --- shards -----------------------------------------------------------------------------------------------

    def add_shard(self, shard: WrittenShard) -> None:
        """Records a finished shard."""
        self._db.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?, ?, ?, ?)", shard)

    def shards(self, split: str | None = None) -> Iterator[WrittenShard]:
        """Finished shards of a split, or of all splits, in order."""
        where, values = ("WHERE split = ?", (split,)) if split else ("", ())
        for row in self._db.execute(f"SELECT * FROM shards {where} ORDER BY split, number", values):
            yield WrittenShard(*row)

    def count_in_shards(self, split: str) -> int:
        """Number of clips in a split's finished shards."""
        return int(self._one("SELECT sum(clips) FROM shards WHERE split = ?", split) or 0)

    def is_written(self, split: str, number: int, digest: str) -> bool:
        """Whether a shard with these contents is finished, and its file is complete."""
        row = self._db.execute(
            "SELECT size FROM shards WHERE split = ? AND number = ? AND digest = ?", (split, number, digest)
        ).fetchone()
        path = self.folder / f"{split}/{number:06d}.tar"
        with contextlib.suppress(OSError):
            return row is not None and path.stat().st_size == row[0]
        return False

    def delete_shards(self, split: str, first: int, last: int | None = None) -> None:
        """Deletes the records of shards `first` to `last` (None: to the end), left by a packing with other options."""
        end = _SIGNED - 1 if last is None else last
        self._db.execute("DELETE FROM shards WHERE split = ? AND number BETWEEN ? AND ?", (split, first, end))


def contents_digest(*parts: object) -> str:
    """A hash of everything that a shard is made from: equal for shards with equal bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
