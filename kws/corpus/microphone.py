"""Records spoken words with the microphone, into the folders that `kws pack` reads.

    microphone -> 50 ms blocks -> countdown, then a take -> level check -> DIR/WORD/SPEAKER_nohash_N.wav, 16 kHz PCM16

The library `sounddevice` (PortAudio) is an optional dependency, imported only when recording.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from kws.audio import codec
from kws.corpus.recording import NOISE_FOLDER, parse_word
from kws.errors import UsageError, cannot_write, filename_in_error
from kws.files import write_bytes

BLOCK_S, COUNTDOWN_S, COUNTDOWN = 0.05, 0.5, ("3", "2", "1")
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
        if not re.fullmatch(r"[^\W_][\w-]*", self.speaker) or "_nohash_" in self.speaker:
            raise UsageError(f"--speaker {self.speaker!r}: wanted letters, numbers, - and _, such as anna")
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


class Microphone:
    """The system's default microphone, mono int16. Records inside a with statement.

    Raises UsageError where the library, PortAudio or a microphone is missing, or the microphone is disconnected.
    """

    def __init__(self) -> None:
        self._library = _library()
        try:
            default_hz = self._library.query_devices(kind="input")["default_samplerate"]
            self._rate = codec.SAMPLE_RATE_HZ if self._supports(codec.SAMPLE_RATE_HZ) else round(default_hz)
            self._stream = self._library.InputStream(self._rate, channels=1, dtype="int16")
        except self._library.PortAudioError as error:
            raise UsageError(
                f"record: no microphone ({error.args[0]}); plug one in or choose it as the system's input"
            ) from error

    def _supports(self, rate: int) -> bool:
        try:
            self._library.check_input_settings(samplerate=rate, channels=1, dtype="int16")
        except self._library.PortAudioError:
            return False
        return True

    def __enter__(self) -> Self:
        self._stream.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def blocks(self, seconds: float) -> Iterator[tuple[codec.Pcm, bool]]:
        """Records for that many seconds, at the microphone's own rate. With each block: whether samples were lost
        before it."""
        left = round(seconds * self._rate)
        while left:
            size = min(left, round(BLOCK_S * self._rate))
            try:
                samples, lost = self._stream.read(size)
            except self._library.PortAudioError as error:
                raise UsageError(
                    f"the microphone does not respond ({error.args[0]}); the takes so far are kept"
                ) from error
            left -= size
            yield samples[:, 0].copy(), bool(lost)

    def as_pcm(self, samples: codec.Pcm) -> codec.Pcm:
        """Samples at the microphone's rate, resampled to 16 kHz."""
        if self._rate == codec.SAMPLE_RATE_HZ:
            return samples
        return codec.pcm_from_float(samples.astype(np.float32) / 32768, self._rate)


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


def level_db(block: codec.Pcm) -> float:
    """RMS level relative to full scale, in dB; -96 for silence."""
    power = float(np.mean(np.square(block.astype(np.float64) / 32768)))
    return max(-96.0, 10 * math.log10(power)) if power else -96.0


def _library() -> Any:
    try:
        import sounddevice  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("record: needs the library sounddevice; type: pip install 'kws[record]'") from error
    except OSError as error:  # importing it loads PortAudio
        raise UsageError(
            "record: needs PortAudio; type: apt-get install libportaudio2 (or your system's package of it)"
        ) from error
    return sounddevice
