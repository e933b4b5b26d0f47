"""One table: a file (or Kaldi's folder of files) that lists recordings. Each format is a subclass that yields raw rows.

table -> RawRow, RawRow, ...; what is written there, not yet checked
"""

from __future__ import annotations

import dataclasses
import functools
import posixpath
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from kws.corpus.recording import NOISE_FOLDER, parse_word
from kws.corpus.tables.place import Place


class RawRow(NamedTuple):
    """One row as it is written; "" for what is not given. Times in seconds, as text.

    audio: path of the audio file; a name where `data` has its bytes. left_out: why the table itself excludes the row.
    mistake: what is wrong with it.
    """

    line: int
    audio: str
    word: str
    speaker: str = ""
    split: str = ""
    start: str = ""
    end: str = ""
    duration: str = ""
    data: bytes | None = None
    left_out: str = ""
    mistake: str = ""


@dataclasses.dataclass
class Table:
    """A table at `path` in a place. split: of all its rows, "" if not given by its name. notes: how it is read.

    kind: the format, for messages. is_strict: mistakes refuse the table, as people write it themselves; else the rows
    are left out. is_text: the words are spoken text, perhaps sentences. may_be_partial: it lists more than was
    downloaded, so that missing files are no fault. may_repeat: a row may be there twice, which is no mistake.
    """

    place: Place
    path: str
    split: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)

    kind: ClassVar[str] = "table"
    is_strict: ClassVar[bool] = True
    may_be_partial: ClassVar[bool] = False
    may_repeat: ClassVar[bool] = True
    audio_folder: ClassVar[str] = ""
    """Where the format has its audio files, below the table's folder."""
    is_text: bool = dataclasses.field(default=False, init=False)

    @functools.cached_property
    def name(self) -> str:
        """Its path, for messages."""
        return posixpath.join(self.place.name, self.path)

    @property
    def folder(self) -> str:
        """The folder that it lies in, relative to the place."""
        return posixpath.dirname(self.path)

    def where(self, line: int) -> str:
        """The position of a row, for messages."""
        return f"{self.name}:{line}"

    def raw_rows(self, with_audio: bool = True) -> Iterator[RawRow]:
        """All rows. with_audio=False: without the bytes of audio that the table itself holds. Raises UsageError for a
        table that cannot be read."""
        raise NotImplementedError

    def parse_word(self, text: str) -> str:
        """The word that a text of the table stands for. Raises ValueError for an invalid one."""
        return _parse_word(text)


@functools.lru_cache(maxsize=1 << 16)
def _parse_word(text: str) -> str:
    stripped = text.strip()
    if stripped == "_silence_":  # the name that the files of Speech Commands' background noise have elsewhere
        return NOISE_FOLDER
    return "unknown" if stripped == "_unknown_" else parse_word(stripped)
