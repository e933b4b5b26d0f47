"""One recording to be packed: its name, word, speaker and audio."""

from __future__ import annotations

import dataclasses
import io
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import NoReturn

from kws.audio import codec
from kws.errors import unreadable

NOISE_FOLDER = "_background_noise_"
NEAR_MISS_FOLDER = "_near_misses_"
"""Where `kws listen` keeps clips that hold a word or not; packing leaves them out."""
NEGATIVES_FOLDER = "_negatives_"
"""In place of the word, in the names and shards of long recordings without the words (kws/corpus/negatives.py)."""
NO_WORDS = (NOISE_FOLDER, NEGATIVES_FOLDER)
Span = tuple[float, float]
"""Start and end of an excerpt, in seconds."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording to be packed as a clip.

    name: WORD/FILE. origin: the folder, archive or CSV it came from. audio: the path of a file, which is read when it
    is decoded, or the bytes of an archive's member. speaker: "" if unknown. span: the excerpt to use; None: the whole.
    split: train, valid or test from its folder, a table or its name; "": from none.
    """

    name: str
    origin: Path
    audio: Path | bytes
    speaker: str = ""
    span: Span | None = None
    split: str = ""

    @property
    def word(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]

    @property
    def size(self) -> int:
        """Bytes of its file; for an excerpt, of its decoded samples."""
        if self.span:
            return round((self.span[1] - self.span[0]) * codec.SAMPLE_RATE_HZ) * 2
        return len(self.audio) if isinstance(self.audio, bytes) else self.audio.stat().st_size

    def decode(self) -> codec.Pcm:
        """As `decode_with_remarks`, the samples alone."""
        return self.decode_with_remarks().pcm

    def decode_with_remarks(self) -> codec.Decoded:
        """Its samples. Raises codec.AudioError for damaged audio, UsageError for a file that cannot be read."""
        if self.span is None:
            return codec.decode_with_remarks(self.audio if isinstance(self.audio, bytes) else read_file(self.audio))
        try:
            with io.BytesIO(self.audio) if isinstance(self.audio, bytes) else self.audio.open("rb") as file:
                return codec.decode_span_with_remarks(file, *self.span)
        except OSError as error:
            raise_unreadable(error, None if isinstance(self.audio, bytes) else self.audio)


def to_nfc(text: str) -> str:
    """The text in Unicode normal form C: macOS writes the ö of a file name as two characters, other systems as one."""
    return unicodedata.normalize("NFC", text)


def excerpt_name(file_name: str, span: Span) -> str:
    """The name of an excerpt, times in ms: day1.flac from 12.5 to 13.5 s -> day1-0012500-0013500.flac."""
    path = PurePosixPath(file_name)
    start, end = (round(seconds * 1000) for seconds in span)
    return f"{path.stem}-{start:07d}-{end:07d}{path.suffix}"


def speaker_from_name(name: str) -> str:
    """WORD/SPEAKER_nohash_N.wav -> SPEAKER; "" where the name has no speaker."""
    found = re.match(r"(.+?)_nohash_", PurePosixPath(name).name)
    return found[1] if found else ""


def speaker_of_long_recording(name: str) -> str:
    """The speaker of all excerpts of a long recording: as speaker_from_name, else the recording's own name, so that all
    its excerpts go to the same split."""
    return speaker_from_name(name) or PurePosixPath(name).stem


def parse_word(label: str) -> str:
    """The word that a label stands for; `noise` stands for _background_noise_. Raises ValueError for an invalid
    label."""
    word = to_nfc(label.strip())
    if word in (NOISE_FOLDER, "noise"):
        return NOISE_FOLDER
    if not word:
        raise ValueError("no word; wanted the spoken word, or noise")
    if "/" in word or word.startswith((".", "_")) or not word.isprintable():
        raise ValueError(f"the word {word!r}; wanted one without /, not starting with . or _")
    return word


def read_file(path: Path) -> bytes:
    """The contents of a file. Raises UsageError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise_unreadable(error, path)


def raise_unreadable(error: OSError, path: Path | None = None) -> NoReturn:
    """Raises a UsageError for an OSError from reading a file; errors of read() do not name it, so `path` does."""
    raise unreadable(error, path) from error
