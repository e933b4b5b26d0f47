"""Small tables and their audio files, made where a test needs them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from kws.audio import codec
from kws.corpus.tables import finding
from kws.corpus.tables.clips import Clip, Clips, LeftOut
from kws.corpus.tables.place import Folder
from tests.conftest import tone


def write_audio(folder: Path, *names: str) -> None:
    """A short tone for each name, each of another pitch."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes(tone(200 + 20 * number, 1600)))


def write_lines(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """A text file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def write_json_lines(path: Path, rows: Iterable[object]) -> Path:
    """A JSON object a line."""
    return write_lines(path, *map(json.dumps, rows))


class Read:
    """What is read of a table, or of the tables in a folder: clips, rows left out, notes."""

    def __init__(self, path: Path, wanted: Sequence[str] = ()) -> None:
        found = finding.find(Folder(path), wanted) if path.is_dir() else finding.Found(finding.open_table(path))
        self.tables = found.tables
        self.problem = found.problem
        self.left_out: list[LeftOut] = []
        clips = Clips(found.tables)
        self.clips: list[Clip] = list(clips.read(self.left_out.append)) if found.tables else []
        self.notes = "\n".join([*found.notes, *(clips.survey.notes if found.tables else [])])

    @property
    def names(self) -> list[str]:
        """Names of the clips, sorted."""
        return sorted(clip.name for clip in self.clips)

    @property
    def splits(self) -> dict[str, str]:
        """Split of each clip by name."""
        return {clip.name: clip.split for clip in self.clips}

    @property
    def speakers(self) -> dict[str, str]:
        """Speaker of each clip by name."""
        return {clip.name: clip.speaker for clip in self.clips}
