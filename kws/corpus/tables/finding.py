"""Which tables a folder (or an archive) holds, by their names and contents; and a table given by its path.

folder --search, some levels deep--> candidates --those that belong together--> tables to read, and notes
"""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from kws.audio import codec
from kws.corpus.split_names import split_of_file
from kws.corpus.tables import common_voice, csv_table, kaldi, manifest, mswc, parquet, text, unsupported
from kws.corpus.tables.common_voice import CommonVoice
from kws.corpus.tables.csv_table import CsvTable
from kws.corpus.tables.kaldi import KaldiFolder
from kws.corpus.tables.manifest import Manifest
from kws.corpus.tables.mswc import Mswc
from kws.corpus.tables.parquet import ParquetTable
from kws.corpus.tables.paths import find_rule
from kws.corpus.tables.place import Folder, Place
from kws.corpus.tables.table import Table
from kws.errors import UsageError

NONE = "none"
"""The name that `--table` takes for: read no table."""
ENDINGS = csv_table.ENDINGS | manifest.ENDINGS | {parquet.ENDING}
_DEPTH = 4
"""Folders are searched so deep; not below a folder that holds a table."""
_SHOWN = 6
_MIX_FORMAT = '"format": "kws-mix"'
_JSON_LETTERS = 4096
_RELEASE_SHARE = 0.9
"""Common Voice's train, dev and test are read where they list this share of what validated.tsv lists."""


@dataclasses.dataclass
class Found:
    """The tables to read together. notes: which they are, and which others are not read and why. problem: why a file
    that may be a table cannot be read; it matters where a source has no other recordings. unread: the same, if that
    file certainly lists recordings."""

    tables: list[Table] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    problem: str = ""
    unread: str = ""


def is_table(path: Path) -> bool:
    """Whether a file that is given as a source is read as a table."""
    return path.is_file() and (path.suffix.lower() in ENDINGS or path.name in kaldi.FILES)


def open_table(path: Path) -> list[Table]:
    """The table in a file that is given by its path. Raises UsageError where it is none."""
    place = Folder(path.parent)
    table = _open(place, path.name)
    table.split = ""  # train.csv alone: all its clips in train would leave the other splits empty
    return [table]


def _open(place: Place, path: str) -> Table:
    """The table at a path, by its name and first lines. Raises UsageError where it is none."""
    split, base = split_of_file(path), posixpath.basename(path).lower()
    ending = posixpath.splitext(base)[1]
    if base in kaldi.FILES:
        return KaldiFolder(place, posixpath.join(posixpath.dirname(path), "wav.scp"), split)
    if ending == parquet.ENDING:
        return ParquetTable(place, path, split)
    if ending in manifest.ENDINGS:
        return Manifest(place, path, split)
    names = _csv_names(place, path)
    if common_voice.is_common_voice(names):
        return CommonVoice(place, path, split)
    return Mswc(place, path, split) if mswc.is_mswc(names) else CsvTable(place, path, split)


def _csv_names(place: Place, path: str) -> frozenset[str]:
    try:
        header = csv_table.find_header(text.head(place, path))
    except ValueError:
        return frozenset()
    return frozenset(header.names if header else ())


def find(place: Place, wanted: Sequence[str] = ()) -> Found:
    """The tables of a place.

    wanted: names, or paths in the place, of those to read (`--table`), or `none`; empty: all that belong together.
    Raises UsageError for a name that is not there, and for several tables that do not belong together.
    """
    if list(wanted) == [NONE]:
        return Found()
    found = Found()
    if wanted:
        found.tables = [_named(place, name) for name in wanted]
    else:
        found.tables = _belonging_together(place, list(_search(place, found)), found)
    _clear_only_split(found)
    names = [posixpath.normpath(table.name) for table in found.tables]
    if names:
        more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
        kinds = " and ".join(sorted({table.kind for table in found.tables}))
        found.notes.insert(0, f"{place.name}: recordings are read from {', '.join(names[:_SHOWN])}{more} ({kinds})")
    return found


def _clear_only_split(found: Found) -> None:
    """Where train.csv is alone, its name decides nothing: with all clips in train, the other splits would be empty."""
    splits = {table.split for table in found.tables}
    if len(splits) == 1 and not any(_has_splits(table) for table in found.tables) and (split := splits.pop()):
        for table in found.tables:
            table.split = ""
        found.notes.append(
            f"{found.tables[0].name}: no tables of other splits than {split}, so its speakers are divided into splits"
        )


def holds(place: Place, name: str) -> bool:
    """Whether a place has a table that `--table` names so."""
    return bool(_matching(place, name))


def _named(place: Place, name: str) -> Table:
    """The table that `--table` names. Raises UsageError where there is none, or several."""
    matching = _matching(place, name)
    if len(matching) == 1:
        return _open(place, matching[0])
    others = ", ".join((matching or [path for path in _files(place) if _may_be_table(path)])[:_SHOWN]) or "none"
    what = f"{len(matching)} tables of that name" if matching else "no such table"
    raise UsageError(f"--table {name}: {what} in {place.name}; found {others}")


def _matching(place: Place, name: str) -> list[str]:
    """Paths of the tables that a name stands for: a path, a name alone, or the folder of Kaldi's files."""
    name = name.rstrip("/")
    for path in (posixpath.join(name, "wav.scp"), name):
        if place.is_file(path):
            return [path]
    return [path for path in _files(place) if posixpath.basename(path) == name]


def _may_be_table(path: str) -> bool:
    base = posixpath.basename(path)
    return posixpath.splitext(base)[1].lower() in ENDINGS or base == "wav.scp"


def _files(place: Place) -> Iterator[str]:
    for folder, _, files in _walk(place):
        yield from (posixpath.join(folder, name) for name in files)


def _walk(place: Place) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folder, names of its folders (those removed are not entered), names of its files; the upper folders first."""
    level = [""]
    for _ in range(_DEPTH):
        below = list[str]()
        for folder in level:
            folders, files = place.list(folder)
            folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
            yield folder, folders, [name for name in files if not name.startswith(".")]
            below += [posixpath.join(folder, name) for name in folders]
        level = below


def _search(place: Place, found: Found) -> Iterator[Table]:
    """All tables of a place whose audio is there."""
    for folder, folders, files in _walk(place):
        candidates = list(_candidates(place, folder, files))
        tables = [table for path in candidates for table in _usable(place, path, found)]
        if tables:
            folders.clear()
        yield from tables
        if not tables and not candidates:
            problem, lists_recordings = _unread(place, folder, files)
            if lists_recordings:
                found.notes.append(f"{place.name}: {problem}; not read")
                found.unread = found.unread or problem
            found.problem = found.problem or problem
        found.problem = found.problem or unsupported.describe(posixpath.join(folder, name) for name in files)


def _candidates(place: Place, folder: str, files: Sequence[str]) -> Iterator[str]:
    """Paths of the files in a folder that may be tables."""
    if set(files) >= kaldi.FILES and kaldi.is_data_folder(place, folder):
        yield posixpath.join(folder, "wav.scp")
        return
    for name in files:
        path, ending = posixpath.join(folder, name), posixpath.splitext(name)[1].lower()
        if name in common_voice.UNUSED:
            continue
        is_table = (
            (ending in csv_table.ENDINGS and _is_csv_table(place, path))
            or (ending in manifest.ENDINGS and manifest.is_manifest(text.head(place, path)))
            or ending == parquet.ENDING
        )
        if is_table:
            yield path


def _is_csv_table(place: Place, path: str) -> bool:
    try:
        return csv_table.find_header(text.head(place, path)) is not None
    except ValueError:  # two columns that could both be the word: opening it reports that
        return True


def _unread(place: Place, folder: str, files: Sequence[str]) -> tuple[str, bool]:
    """Why the first file in a folder that may be a table is none, and whether it certainly lists recordings; ("",
    False) where there is none."""
    weak = ""
    for name in files:
        path, ending = posixpath.join(folder, name), posixpath.splitext(name)[1].lower()
        if ending not in csv_table.ENDINGS | manifest.ENDINGS or name in common_voice.UNUSED:
            continue
        lines = text.head(place, path)
        problem = _unread_csv(path, lines) if ending in csv_table.ENDINGS else _unread_json(path, lines)
        if problem:
            return problem, True
        if ending in csv_table.ENDINGS and lines.strip():
            weak = weak or f"{path}, whose first line is {_shown(lines)!r}, is no table that can be read: {_HEADER}"
    return weak, False


_HEADER = "wanted a first line with path and word"


def _unread_csv(path: str, lines: str) -> str:
    """What is wrong with a CSV file that lists recordings."""
    first, second = (*lines.split("\n", 2), "", "")[:2]
    if _names_audio(first):
        return f"{path} has no header line: its first line is {_shown(first)!r}; add path,word"
    if _names_audio(second):
        return f"{path} lists recordings, but its columns {_shown(first)!r} are unknown; rename two to path and word"
    return ""


def _unread_json(path: str, lines: str) -> str:
    """What is wrong with a JSON file that names recordings."""
    if _MIX_FORMAT in lines[:_JSON_LETTERS]:  # mix.json of kws mix; the words are in the label tracks beside it
        return ""
    if any(codec.is_audio(value) for value in re.findall(r'"([^"\\]{1,255})"', lines[:_JSON_LETTERS])):
        return f"{path} names recordings, but is no manifest: {manifest.WANTED}"
    return ""


def _names_audio(line: str) -> bool:
    return any(codec.is_audio(cell.strip(" \"'\r")) for cell in re.split(r"[,;\t|]", line))


def _shown(lines: str) -> str:
    return lines.strip().partition("\n")[0].strip()[:60]


def _usable(place: Place, path: str, found: Found) -> list[Table]:
    """The table at a path, where it can be read and its audio is there; else a note gives the reason."""
    try:
        table = _open(place, path)
        rows = table.raw_rows(with_audio=False)
        first = next((row for row in rows if not row.left_out and not row.mistake), None)
        if first is None or first.data is not None or _audio_is_there(table):
            return [table] if first or next(table.raw_rows(with_audio=False), None) else []
        problem = f"{table.name}: lists recordings that are not here, such as {first.audio}; not read"
    except UsageError as error:
        problem = str(error)
    found.notes.append(problem)
    found.problem = found.problem or problem
    return []


def _audio_is_there(table: Table) -> bool:
    rows = table.raw_rows(with_audio=False)
    return find_rule(table.place, table.folder, (row.audio for row in rows if not row.left_out)) is not None


# --- which of several tables are read -----------------------------------------------------------------------------


def _belonging_together(place: Place, tables: list[Table], found: Found) -> list[Table]:
    """The tables that are read. Raises UsageError where it is not clear which."""
    chosen = list[Table]()
    for _, group in itertools.groupby(sorted(tables, key=lambda table: table.folder), lambda table: table.folder):
        chosen += _of_folder(place, _one_of_each_name(list(group), found), found)
    with_split = [table for table in chosen if table.split or _has_splits(table)]
    if with_split and len(with_split) < len(chosen):
        raise _which(place, chosen)
    if len({table.kind for table in chosen}) > 1:
        raise _which(place, chosen)
    return chosen


def _one_of_each_name(tables: list[Table], found: Found) -> list[Table]:
    """Without tables of the same name in another format: metadata.csv and metadata.jsonl."""
    first: dict[str, Table] = {}
    for table in tables:
        kept = first.setdefault(posixpath.splitext(table.path)[0], table)
        if kept is not table:
            found.notes.append(f"{table.name}: not read, as {kept.name} has the same name")
    return list(first.values())


def _of_folder(place: Place, tables: list[Table], found: Found) -> list[Table]:
    """Those of the tables in one folder that are read."""
    if len(tables) == 1:
        return tables
    whole = [table for table in tables if _is_whole(table)]
    parts = [table for table in tables if table.split and not _is_whole(table)]
    if len(whole) == 1 and len(parts) + 1 == len(tables) and parts:
        return _whole_or_parts(whole[0], parts, found)
    if all(table.split or _has_splits(table) for table in tables):
        return tables
    if all(isinstance(table, ParquetTable) for table in tables):
        return tables
    raise _which(place, tables)


def _is_whole(table: Table) -> bool:
    """Whether a table has the rows of all splits: Common Voice's validated.tsv, MSWC's en_splits.csv."""
    base = posixpath.basename(table.path)
    if isinstance(table, CommonVoice):
        return base == "validated.tsv"
    return isinstance(table, Mswc) and _has_splits(table)


def _has_splits(table: Table) -> bool:
    return isinstance(table, CsvTable) and bool(table.header.columns.split)


def _whole_or_parts(whole: Table, parts: list[Table], found: Found) -> list[Table]:
    """The table with all rows, or those of the splits where they list nearly as much."""
    names = ", ".join(posixpath.basename(table.path) for table in parts)
    if _has_splits(whole):
        found.notes.append(f"{whole.name} is read; {names}, which have the same rows, are not")
        return [whole]
    in_parts, in_whole = sum(map(_num_rows, parts)), _num_rows(whole)
    if in_parts >= _RELEASE_SHARE * in_whole:
        found.notes.append(
            f"{names} are read: {in_parts:,} of the {in_whole:,} rows of {whole.name}, with their splits"
        )
        return parts
    options = " ".join(f"--table {posixpath.basename(table.path)}" for table in parts)
    found.notes.append(
        f"{whole.name} is read; {names}, which list {in_parts:,} of its {in_whole:,} rows, are not; to read these: "
        f"{options}"
    )
    return [whole]


def _num_rows(table: Table) -> int:
    return sum(1 for _ in table.raw_rows(with_audio=False))


def _which(place: Place, tables: Sequence[Table]) -> UsageError:
    names = [posixpath.relpath(table.path, ".") for table in tables]
    more = ", ..." if names[_SHOWN:] else ""
    return UsageError(
        f"{place.name}: {len(tables)} tables that may not belong together ({', '.join(names[:_SHOWN])}{more}); name "
        f"those to read: --table {names[0]} (again for more), or --table {NONE} to go by the folders' names"
    )
