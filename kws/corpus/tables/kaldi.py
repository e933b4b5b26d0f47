"""Kaldi's data folders: wav.scp, text, and perhaps utt2spk and segments, one line an utterance, sorted by its name.

    utt1 wavs/1.wav   +   utt1 YES   +   utt1 anna   ( +   utt1 recording 0.5 1.5 )   -> RawRow

ESPnet and wenet write the same files. They are read side by side, so that memory stays small where they are sorted.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterator
from typing import ClassVar

from kws.corpus.tables import text
from kws.corpus.tables.place import Place
from kws.corpus.tables.table import RawRow, Table

FILES = frozenset({"wav.scp", "text"})
"""What a data folder with words has; the table's own file is wav.scp, or segments where there is one."""


@dataclasses.dataclass
class KaldiFolder(Table):
    """A data folder; `path` is that of its wav.scp."""

    kind: ClassVar[str] = "Kaldi data folder"
    is_text: bool = dataclasses.field(default=True, init=False)

    def __post_init__(self) -> None:
        speakers = "utt2spk names the speakers" if self._has("utt2spk") else "no utt2spk, so speakers are unknown"
        self.notes.append(f"{self.name}: a data folder of Kaldi: text has the words; {speakers}")

    def raw_rows(self, with_audio: bool = True) -> Iterator[RawRow]:
        """All utterances. One without text is left out."""
        words, speakers = self._lookup("text"), self._lookup("utt2spk")
        if self._has("segments"):
            recordings = {key: rest for _, key, rest in self._lines("wav.scp")}
            for line, utterance, rest in self._lines("segments"):
                yield self._segment(line, utterance, rest.split(), recordings, words, speakers)
            return
        for line, utterance, rest in self._lines("wav.scp"):
            yield _row(line, utterance, rest, words.get(utterance), speakers.get(utterance) or "")

    def where(self, line: int) -> str:
        """The position in the file that lists the utterances."""
        name = "segments" if self._has("segments") else "wav.scp"
        return f"{posixpath.join(self.place.name, self.folder, name)}:{line}"

    def _segment(
        self,
        line: int,
        utterance: str,
        fields: list[str],
        recordings: dict[str, str],
        words: _Lookup,
        speakers: _Lookup,
    ) -> RawRow:
        if len(fields) != 3:
            return RawRow(line, "", "", mistake="wanted an utterance, its recording, start and end")
        recording, start, end = fields
        file = recordings.get(recording)
        if file is None:
            return RawRow(line, "", "", mistake=f"its recording {recording} is not in wav.scp")
        row = _row(line, utterance, file, words.get(utterance), speakers.get(utterance) or "")
        return row._replace(start=start, end=end)

    def _has(self, name: str) -> bool:
        return self.place.is_file(posixpath.join(self.folder, name))

    def _lines(self, name: str) -> Iterator[tuple[int, str, str]]:
        """Line, first field and the rest of each line of a file."""
        path = posixpath.join(self.folder, name)
        with text.open_text(self.place, path) as file:
            try:
                for number, line in enumerate(file, 1):
                    key, *rest = line.split(maxsplit=1) or [""]
                    if key:
                        yield number, key, rest[0].strip() if rest else ""
            except UnicodeDecodeError as error:
                text.raise_not_unicode(self.place, path, error)

    def _lookup(self, name: str) -> _Lookup:
        return _Lookup((key, rest) for _, key, rest in self._lines(name)) if self._has(name) else _Lookup(iter(()))


class _Lookup:
    """The values of a file by its first field, each requested once. Reads on until a key is found, and keeps only the
    lines that it passes over."""

    def __init__(self, lines: Iterator[tuple[str, str]]) -> None:
        self._lines, self._passed = lines, dict[str, str]()

    def get(self, key: str) -> str | None:
        """The value; None where the file has none."""
        if key in self._passed:
            return self._passed.pop(key)
        for found, value in self._lines:
            if found == key:
                return value
            self._passed[found] = value
        return None


def _row(line: int, utterance: str, file: str, words: str | None, speaker: str) -> RawRow:
    if file.endswith("|"):
        what = (
            f"the command `{file[:40]}{'...' if file[40:] else ''}`, which kws does not run; write its output to a file"
        )
        return RawRow(line, "", "", mistake=f"{what} and list that")
    ark, _, offset = file.rpartition(":")
    if ark.endswith(".ark") and offset.isdecimal():
        return RawRow(line, "", "", mistake=f"audio inside the archive {ark}; wanted a file for each recording")
    if words is None:
        return RawRow(line, file, "", left_out="not in text, so without a word")
    return RawRow(line, file, words, speaker)


def is_data_folder(place: Place, folder: str) -> bool:
    """Whether a folder is one of Kaldi's with words: its wav.scp and text begin with the same kind of lines."""
    heads = [text.head(place, posixpath.join(folder, name)).split("\n", 1)[0].split() for name in ("wav.scp", "text")]
    return all(len(fields) >= 2 for fields in heads)
