"""JSON manifests as NeMo, wekws and others write them: an object a line, or one list of objects.

    {"audio_filepath": "wavs/1.wav", "offset": 0.0, "duration": 1.0, "command": "yes"} -> RawRow

The usual names of keys are those of columns (kws.corpus.tables.columns). `offset` and `duration` select an excerpt. An
offset of 0 in every line means whole files, unless a file is longer than the duration in its line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from kws.corpus.tables import columns, text
from kws.corpus.tables.columns import Columns
from kws.corpus.tables.table import RawRow, Table
from kws.errors import UsageError

ENDINGS = frozenset({".json", ".jsonl", ".ndjson", ".list"})
_SAMPLED_ROWS = 50
WANTED = (
    'wanted a JSON object a line, such as {"audio_filepath": "wavs/1.wav", "command": "yes"} '
    "(docs/data.md names other keys)"
)


@dataclasses.dataclass
class Manifest(Table):
    """A JSON manifest. Raises UsageError where its rows have no audio or no word."""

    kind: ClassVar[str] = "JSON manifest"

    def __post_init__(self) -> None:
        try:
            found = find_columns(text.head(self.place, self.path))
        except ValueError as error:
            raise UsageError(f"{self.name}:1: {error}; {WANTED}") from error
        if found is None:
            raise UsageError(f"{self.name}:1: no audio file or no word there; {WANTED}")
        self._columns, self._is_list = found
        self.is_text = self._columns.is_text
        self.notes.append(f"{self.name}: {self._columns.described}")

    def raw_rows(self, with_audio: bool = True) -> Iterator[RawRow]:
        """All rows. Raises UsageError for text that is not UTF-8, and for a damaged list."""
        found = self._columns
        keys = (found.audio, found.word, found.speaker, found.split, found.start, found.end, found.duration)
        for line, facts in self._objects():
            if isinstance(facts, dict):
                values = {key.lower(): value for key, value in facts.items()}
                yield RawRow(line, *(_text(values.get(key)) if key else "" for key in keys))  # type: ignore[arg-type]
            else:
                yield RawRow(line, "", "", mistake=facts)

    def _objects(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Line and object; where it is none, what is wrong."""
        with text.open_text(self.place, self.path) as file:
            try:
                if self._is_list:
                    yield from enumerate(map(_checked, json.load(file)), 1)
                    return
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _object(line)
            except UnicodeDecodeError as error:
                text.raise_not_unicode(self.place, self.path, error)
            except ValueError as error:
                raise UsageError(f"{self.name}: damaged JSON ({error}); {WANTED}") from error


def _object(line: str) -> dict[str, Any] | str:
    try:
        return _checked(json.loads(line))
    except ValueError as error:
        return f"damaged JSON ({error}); {WANTED}"


def _checked(value: object) -> dict[str, Any] | str:
    return value if isinstance(value, dict) else f"found {str(value)[:60]!r}; {WANTED}"


def _text(value: object) -> str:
    """The value as text; of an object, as Hugging Face writes audio, its path."""
    if isinstance(value, dict):
        value = value.get("path")
    return "" if value is None else str(value).strip()


def is_manifest(lines: str) -> bool:
    """Whether a file with these first lines is a JSON manifest of recordings."""
    try:
        return find_columns(lines) is not None
    except ValueError:
        return True


def find_columns(lines: str) -> tuple[Columns, bool] | None:
    """The keys of a manifest with these first lines, and whether it is one list; None where it is no manifest. Raises
    ValueError for two keys that could both be the word."""
    is_list = lines.lstrip().startswith("[")
    sample = _sample_of_list(lines) if is_list else _sample_of_lines(lines)
    names = list(dict.fromkeys(name for facts in sample for name in facts))
    found = columns.choose(names, sample)
    return (found, is_list) if found else None


def _sample_of_lines(lines: str) -> Sequence[Mapping[str, str]]:
    rows = []
    for line in lines.splitlines()[:_SAMPLED_ROWS]:
        facts = _object(line) if line.strip() else ""
        if isinstance(facts, dict):
            rows.append({key.lower(): _text(value) for key, value in facts.items()})
    return rows


def _sample_of_list(lines: str) -> Sequence[Mapping[str, str]]:
    """The first objects of a list, which may be cut."""
    decoder, rows, place = json.JSONDecoder(), list[Mapping[str, str]](), lines.index("[") + 1
    while len(rows) < _SAMPLED_ROWS:
        place += len(lines[place:]) - len(lines[place:].lstrip(" \t\r\n,"))
        try:
            facts, place = decoder.raw_decode(lines, place)
        except ValueError:
            break
        if not isinstance(facts, dict):
            break
        rows.append({key.lower(): _text(value) for key, value in facts.items()})
    return rows
