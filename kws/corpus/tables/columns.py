"""Which column (or JSON key) of a table holds what, by its usual names.

the columns' names, some rows -> Columns; a note about which column was read as what
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from kws.audio import formats

AUDIO = (
    "path", "file_name", "filename", "file", "file_path", "filepath", "audio_filepath", "audio_file_path",
    "audio_path", "audio_file", "audio_filename", "audio", "wav", "wav_path", "wav_file", "wav_filename", "fname",
    "clip", "clip_path", "link",
)  # fmt: skip
WORDS = (
    ("word", "keyword", "command"),
    ("label", "class", "class_name", "classname", "category"),
    ("sentence", "text", "transcript", "transcription", "txt", "utterance"),
)
"""By rank. Two columns of the same rank with different contents are ambiguous. The last rank holds spoken text, which
may be whole sentences."""
SPEAKER = ("speaker", "speaker_id", "client_id", "speakerid", "spk", "spk_id", "speaker_name")
SPLIT = ("split", "set", "subset", "partition")
START = ("start", "offset", "start_time", "start_s", "begin")
END = ("end", "end_time", "end_s", "stop_time")
DURATION = ("duration", "dur")
CLASSIC = ("path", "word", "speaker", "split", "start", "end")
"""The names that kws itself documents: a table that uses only these needs no note."""
_NUMBER = re.compile(r"-?\d+")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns; "" where the table has none. is_text: the words are spoken text, perhaps sentences."""

    audio: str
    word: str
    speaker: str = ""
    split: str = ""
    start: str = ""
    end: str = ""
    duration: str = ""
    is_text: bool = False

    @property
    def described(self) -> str:
        """What is read as what, in words; "" where all columns have the documented names."""
        used = {
            "the audio": self.audio, "the word": self.word, "the speaker": self.speaker, "the split": self.split,
            "the start": self.start, "the end": self.end,
        }  # fmt: skip
        if set(used.values()) - {""} <= set(CLASSIC):
            return ""
        return ", ".join(f"{name} is read as {role}" for role, name in used.items() if name)


def choose(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Columns | None:
    """The columns of a table with these names (lower case) and first rows; None where it has no audio or no words.

    Raises ValueError for two columns that could both be the word.
    """
    audio, word = _audio(names, rows), _word(names, rows)
    if not (audio and word):
        return None

    def first(known: Sequence[str]) -> str:
        return next((name for name in known if name in names), "")

    return Columns(
        audio, word, first(SPEAKER), first(SPLIT), first(START), first(END), first(DURATION), word in WORDS[-1]
    )


def _audio(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """The first by priority whose values are names of audio files, else the first by priority."""
    candidates = [name for name in AUDIO if name in names]
    for name in candidates:
        if any(formats.is_named_as_audio(row.get(name, "").strip()) for row in rows):
            return name
    return candidates[0] if candidates else ""


def _word(names: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """The first by rank whose values are no mere numbers, else the first by rank."""
    numbers = ""
    for rank in WORDS:
        texts = [name for name in rank if name in names and not _is_numeric(name, rows)]
        for other in texts[1:]:
            differs = next((row for row in rows if row.get(other, "") != row.get(texts[0], "")), None)
            if differs:
                raise ValueError(
                    f"the columns {texts[0]} ({differs.get(texts[0], '')!r}) and {other} ({differs.get(other, '')!r}) "
                    "could both be the word; rename one of them"
                )
        if texts:
            return texts[0]
        numbers = numbers or next((name for name in rank if name in names), "")
    return numbers


def _is_numeric(name: str, rows: Sequence[Mapping[str, str]]) -> bool:
    values = [row.get(name, "").strip() for row in rows]
    return any(values) and all(_NUMBER.fullmatch(value) for value in values if value)
