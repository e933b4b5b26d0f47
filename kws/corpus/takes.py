"""Records spoken words with the microphone, into the folders that `kws pack` reads.

    microphone -> 50 ms blocks -> countdown, then a take -> level check -> DIR/WORD/SPEAKER_nohash_N.wav, 16 kHz PCM16

The microphone itself is kws/audio/microphone.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from kws.audio import codec
from kws.audio.microphone import Microphone, level_db
from kws.corpus.recording import NOISE_FOLDER, parse_word
from kws.errors import UsageError, cannot_write, filename_in_error
from kws.files import write_bytes

COUNTDOWN_S, COUNTDOWN = 0.5, ("3", "2", "1")
SILENT_DB = -45.0
"""A take is silent if its loudest block is below this level re full scale. Of 864 real clips none is; the softest has
-42."""
CLIPPED_SAMPLES = 8
"""A take with this many samples at full scale is too loud (2 % of those clips)."""
TRIES = 5
"""Rejected takes in a row after which recording gives up."""


@dataclasses.dataclass(frozen=True)
class RecordingSession:
    """What to record: `count` takes of `word`, of `seconds` each. Raises UsageError for names that no file can have."""

    word: str
    folder: Path
    speaker: str
    count: int = 20
    seconds: float = 1.0

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "word", parse_word(self.word))
        except ValueError as error:
            raise UsageError(f"record: {error}") from error
        check_speaker(self.speaker)
        if self.count < 1 or not 0.2 <= self.seconds <= 600:
            raise UsageError(
                f"--count {self.count} --seconds {self.seconds:g}: wanted 1 take or more, of 0.2 to 600 seconds"
            )

    @property
    def word_folder(self) -> Path:
        """The folder for the takes of the word."""
        return self.folder / self.word

    def take_path(self, number: int) -> Path:
        """The file of a take."""
        return self.word_folder / f"{self.speaker}_nohash_{number}.wav"

    def first_number(self) -> int:
        """The number of the next take: one more than the highest of the speaker's files in the folder."""
        names = (
            re.fullmatch(rf"{re.escape(self.speaker)}_nohash_(\d+)", file.stem) for file in self.word_folder.glob("*")
        )
        return max((int(name[1]) + 1 for name in names if name), default=0)


def check_speaker(name: str) -> None:
    """Raises UsageError for a name that cannot be part of a file name, NAME_nohash_N.wav."""
    if not re.fullmatch(r"[^\W_][\w-]*", name) or "_nohash_" in name:
        raise UsageError(f"--speaker {name!r}: wanted letters, numbers, - and _, such as anna")


@dataclasses.dataclass(frozen=True)
class BlockLevel:
    """A recorded block: the take it belongs to (from 1), the countdown to show ("" during the take), and its level."""

    take: int
    countdown: str
    level_db: float


@dataclasses.dataclass(frozen=True)
class RejectedTake:
    """A take that was not kept and is repeated, and the reason."""

    why: str


def record(session: RecordingSession, microphone: Microphone) -> Iterator[BlockLevel | RejectedTake]:
    """Records the takes; yields every block and every rejection. Raises UsageError after TRIES rejections in a row."""
    first = session.first_number()
    try:
        session.word_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(cannot_write(session.word_folder, error, "give another folder")) from error
    for number in range(first, first + session.count):
        for _ in range(TRIES):
            why = yield from _take(session, number, number - first + 1, microphone)
            if not why:
                break
            yield RejectedTake(why)
        else:
            raise UsageError(
                f"{session.word_folder}: {TRIES} takes in a row were rejected, the last one as {why}; {number - first} "
                "are kept; check the microphone's level, then run the same command again"
            )


def _take(
    session: RecordingSession, number: int, take: int, microphone: Microphone
) -> Generator[BlockLevel, None, str]:
    """Counts down, records a take, and keeps it if it is good. Returns the reason why it was not kept, or ""."""
    for text in COUNTDOWN:
        for block, _ in microphone.blocks(COUNTDOWN_S):
            yield BlockLevel(take, text, level_db(block))
    blocks, lost = list[codec.Pcm](), False
    for block, gap in microphone.blocks(session.seconds):
        lost = lost or (gap and bool(blocks))
        blocks.append(block)
        yield BlockLevel(take, "", level_db(block))
    why = "incomplete: the computer was too slow" if lost else reject_reason(blocks, session.word)
    if not why:
        path, pcm = session.take_path(number), microphone.as_pcm(np.concatenate(blocks))
        with filename_in_error(path):
            write_bytes(path, codec.wav_bytes(pcm))
    return why


def reject_reason(blocks: list[codec.Pcm], word: str) -> str:
    """Why a take is rejected; "" if it is good. A take of noise may be silent."""
    if int(np.count_nonzero(np.abs(np.concatenate(blocks).astype(np.int32)) >= 32766)) >= CLIPPED_SAMPLES:
        return "clipped: too loud, or too close to the microphone"
    if word != NOISE_FOLDER and max(map(level_db, blocks)) < SILENT_DB:
        return "silent: no speech was recorded"
    return ""
