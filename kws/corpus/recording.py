"""One clip to be: what it is called, who says what in it, where its sound is."""

from __future__ import annotations

import dataclasses
import io
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import NoReturn

from kws.audio import codec
from kws.errors import UsageError

NOISE_FOLDER = "_background_noise_"
Span = tuple[float, float]
"""From where to where in a recording, in seconds."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One clip to be: `name` is WORD/FILE, `origin` the folder, archive or list it came from.

    `audio`: a file, which is read where it is decoded, or an archive's bytes. `speaker`: "" where nothing says who.
    `span`: of a longer file from where to where.
    """

    name: str
    origin: Path
    audio: Path | bytes
    speaker: str = ""
    span: Span | None = None

    @property
    def word(self) -> str:
        """The folder's name."""
        return self.name.partition("/")[0]

    @property
    def size(self) -> int:
        """Bytes of its file; of a cut, those of its samples."""
        if self.span:
            return round((self.span[1] - self.span[0]) * codec.SAMPLE_RATE_HZ) * 2
        return len(self.audio) if isinstance(self.audio, bytes) else self.audio.stat().st_size

    def decode(self) -> codec.Pcm:
        """Its samples. Raises codec.AudioError for what is no sound, UsageError for a file that cannot be read."""
        if self.span is None:
            return codec.decode(self.audio if isinstance(self.audio, bytes) else bytes_of(self.audio))
        try:
            with io.BytesIO(self.audio) if isinstance(self.audio, bytes) else self.audio.open("rb") as file:
                return codec.decode_span(file, *self.span)
        except OSError as error:
            cannot_read(error)


def composed(text: str) -> str:
    """The one spelling of a text: macOS writes the ö of a file's name as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def cut_name(file_name: str, span: Span) -> str:
    """What a part of a recording is called: day1.flac from 12.5 to 13.5 s -> day1-0012500-0013500.flac."""
    path = PurePosixPath(file_name)
    start, end = (round(seconds * 1000) for seconds in span)
    return f"{path.stem}-{start:07d}-{end:07d}{path.suffix}"


def speaker_of(name: str) -> str:
    """WORD/SPEAKER_nohash_N.wav -> SPEAKER; "" where the name does not say who."""
    found = re.match(r"(.+?)_nohash_", PurePosixPath(name).name)
    return found[1] if found else ""


def speaker_of_long(name: str) -> str:
    """Whose cuts of one recording are: as speaker_of, else the recording's own name, so that no split shares it."""
    return speaker_of(name) or PurePosixPath(name).stem


def word_of(label: str) -> str:
    """A label as a person writes it -> the word it stands for. Raises ValueError with what is wrong of it."""
    word = composed(label.strip())
    if word in (NOISE_FOLDER, "noise"):
        return NOISE_FOLDER
    if not word:
        raise ValueError("no word; wanted what is said there, or noise")
    if "/" in word or word.startswith((".", "_")) or not word.isprintable():
        raise ValueError(f"the word {word!r}; wanted one without /, that starts with neither . nor _")
    return word


def bytes_of(path: Path) -> bytes:
    """A file, whole. Raises UsageError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        cannot_read(error)


def cannot_read(error: OSError) -> NoReturn:
    """What the system's error is for a person."""
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror}); wanted the right to read it") from error
