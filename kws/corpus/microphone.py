"""One's own voice, take by take, in the folders that `kws pack` reads.

    microphone -> 50 ms blocks -> a countdown, then a take -> heard? -> DIR/WORD/SPEAKER_nohash_N.wav, 16 kHz mono PCM16

The library `sounddevice` (PortAudio) is an extra, imported here alone and only where somebody records.
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
from kws.corpus.recording import NOISE_FOLDER, word_of
from kws.errors import UsageError, filename_in_error

BLOCK_S, COUNTDOWN_S, COUNTDOWN = 0.05, 0.5, ("3", "2", "1")
SILENT_DB = -45.0
"""Loudest block of a take below this, against full scale: nobody spoke (of 864 real clips none is, the softest -42)."""
CLIPPED_SAMPLES = 8
"""So many at full scale: too loud (2 % of those clips)."""
TRIES = 5


@dataclasses.dataclass(frozen=True)
class RecordingSession:
    """What is to be recorded. Raises UsageError for what cannot be a folder's or a file's name."""

    word: str
    folder: Path
    speaker: str
    count: int = 20
    seconds: float = 1.0

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "word", word_of(self.word))
        except ValueError as error:
            raise UsageError(f"record: {error}") from error
        if not re.fullmatch(r"[^\W_][\w-]*", self.speaker) or "_nohash_" in self.speaker:
            raise UsageError(f"--speaker {self.speaker!r}: wanted letters, numbers, - and _, such as anna")
        if self.count < 1 or not 0.2 <= self.seconds <= 600:
            raise UsageError(
                f"--count {self.count} --seconds {self.seconds:g}: wanted 1 take or more, of 0.2 to 600 seconds"
            )

    @property
    def place(self) -> Path:
        """The folder of the word."""
        return self.folder / self.word

    def path(self, number: int) -> Path:
        """The file of a take."""
        return self.place / f"{self.speaker}_nohash_{number}.wav"

    def first_number(self) -> int:
        """One more than the highest of the speaker's files there."""
        names = (re.fullmatch(rf"{re.escape(self.speaker)}_nohash_(\d+)", file.stem) for file in self.place.glob("*"))
        return max((int(name[1]) + 1 for name in names if name), default=0)


@dataclasses.dataclass(frozen=True)
class Heard:
    """A block: of which take, the number to count down ("" while the take runs), and how loud."""

    take: int
    countdown: str
    level_db: float


@dataclasses.dataclass(frozen=True)
class Refused:
    """A take that is made again, and why."""

    why: str


class Microphone:
    """The system's default one, open inside `with`; gives 16 kHz mono int16.

    Raises UsageError where the library, PortAudio or a microphone is missing, or it goes away.
    """

    def __init__(self) -> None:
        self._library = _library()
        try:
            default_hz = self._library.query_devices(kind="input")["default_samplerate"]
            self._rate = codec.SAMPLE_RATE_HZ if self._takes(codec.SAMPLE_RATE_HZ) else round(default_hz)
            self._stream = self._library.InputStream(self._rate, channels=1, dtype="int16")
        except self._library.PortAudioError as error:
            raise UsageError(
                f"record: no microphone ({error.args[0]}); plug one in or choose it as the system's input"
            ) from error

    def _takes(self, rate: int) -> bool:
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
        """The next so many seconds at the microphone's own rate; with each block, whether some was lost before it."""
        left = round(seconds * self._rate)
        while left:
            size = min(left, round(BLOCK_S * self._rate))
            try:
                samples, lost = self._stream.read(size)
            except self._library.PortAudioError as error:
                raise UsageError(f"the microphone is gone ({error.args[0]}); what was kept stays") from error
            left -= size
            yield samples[:, 0].copy(), bool(lost)

    def as_pcm(self, samples: codec.Pcm) -> codec.Pcm:
        """At 16 kHz."""
        if self._rate == codec.SAMPLE_RATE_HZ:
            return samples
        return codec.pcm_from_float(samples.astype(np.float32) / 32768, self._rate)


def record(session: RecordingSession, microphone: Microphone) -> Iterator[Heard | Refused]:
    """Makes the takes, telling of every block and every refusal. Raises UsageError when take after take is no good."""
    first = session.first_number()
    try:
        session.place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{session.place}: cannot be made ({error.strerror}); give another folder") from error
    for number in range(first, first + session.count):
        for _ in range(TRIES):
            why = yield from _take(session, number, number - first + 1, microphone)
            if not why:
                break
            yield Refused(why)
        else:
            raise UsageError(
                f"{session.place}: {TRIES} takes in a row were no good, the last one {why}; {number - first} are kept; "
                "look at the microphone's level, then run the same again"
            )


def _take(session: RecordingSession, number: int, take: int, microphone: Microphone) -> Generator[Heard, None, str]:
    """Counts down, listens, keeps what is good. Returns why it was not kept, or ""."""
    for text in COUNTDOWN:
        for block, _ in microphone.blocks(COUNTDOWN_S):
            yield Heard(take, text, level_db(block))
    blocks, lost = list[codec.Pcm](), False
    for block, gap in microphone.blocks(session.seconds):
        lost = lost or (gap and bool(blocks))
        blocks.append(block)
        yield Heard(take, "", level_db(block))
    why = "broken: the computer was too slow" if lost else fault(blocks, session.word)
    if not why:
        _write(session.path(number), microphone.as_pcm(np.concatenate(blocks)))
    return why


def fault(blocks: list[codec.Pcm], word: str) -> str:
    """Why a take is no good; "". Noise may be silent."""
    if int(np.count_nonzero(np.abs(np.concatenate(blocks).astype(np.int32)) >= 32766)) >= CLIPPED_SAMPLES:
        return "clipped: too loud, or too near"
    if word != NOISE_FOLDER and max(map(level_db, blocks)) < SILENT_DB:
        return "silent: nothing was heard"
    return ""


def level_db(block: codec.Pcm) -> float:
    """Root mean square against full scale, in dB; -96 for silence."""
    power = float(np.mean(np.square(block.astype(np.float64) / 32768)))
    return max(-96.0, 10 * math.log10(power)) if power else -96.0


def _write(path: Path, pcm: codec.Pcm) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    try:
        with filename_in_error(partial):
            partial.write_bytes(codec.wav_bytes(pcm))
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _library() -> Any:
    try:
        import sounddevice  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("record: needs the library sounddevice; type: pip install 'kws[record]'") from error
    except OSError as error:  # it looks for PortAudio as it is imported
        raise UsageError(
            "record: needs PortAudio; type: apt-get install libportaudio2 (or your system's package of it)"
        ) from error
    return sounddevice
