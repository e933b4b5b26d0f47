"""Audio that libsndfile does not read (m4a, aac, webm, amr, wma, ...), through ffmpeg where it is installed.

    a file -> ffmpeg, with the format of the first bytes given -> float WAV through a pipe -> samples, sample rate

ffmpeg gets no shell, no input but the one file, and no protocols but files and pipes: recordings come from strangers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from kws.audio.formats import AudioFormat
from kws.errors import UsageError

CONVERT = "ffmpeg -i FILE -ar 16000 -ac 1 FILE.flac"
"""What to type to convert a file, here or on another machine."""
_SECONDS, _SECONDS_PER_BYTE = 120.0, 1e-5
"""ffmpeg is ended after so long; it reads more than a MB a second."""
_HEADER_BYTES = 4096
"""At least the bytes before the samples in the WAV file that ffmpeg writes."""


_CUT_OFF = re.compile("prematurely|truncat|exhausted|incomplete|too small|end of file|EOF", re.IGNORECASE)
"""What ffmpeg reports of a truncated file, before it continues with what is left."""


class FfmpegError(ValueError):
    """ffmpeg could not read the file. The message is its reason."""


class Read(NamedTuple):
    """What ffmpeg read: float32 samples (T, channels), their rate, and the first error that it reported, or ""."""

    samples: npt.NDArray[np.float32]
    rate_hz: int
    reported: str


@functools.cache
def program() -> str:
    """The path of ffmpeg; "" where it is not installed."""
    return shutil.which("ffmpeg") or ""


def read(data: bytes, form: AudioFormat) -> Read:
    """Reads the whole of a file. Raises FfmpegError, and UsageError where the machine is at fault."""
    with _temporary(data) as file:
        wav, reported = _run(_decode_command(Path(file.name), form), len(data))
    samples, rate_hz = _parse_wav(wav)
    return Read(samples, rate_hz, reported)


@contextlib.contextmanager
def _temporary(data: bytes) -> Iterator[IO[bytes]]:
    """The data as a file. No pipe: MP4 often has its table of contents at the end."""
    try:
        with tempfile.NamedTemporaryFile(prefix="kws-") as file:
            file.write(data)
            file.flush()
            yield cast(IO[bytes], file)
    except OSError as error:
        raise _no_space(error.strerror or str(error)) from error


def _no_space(reason: str) -> UsageError:
    return UsageError(f"{tempfile.gettempdir()}: cannot hold ffmpeg's files ({reason}); set TMPDIR to another folder")


def _decode_command(path: Path, form: AudioFormat) -> list[str]:
    quiet = ["-nostdin", "-hide_banner", "-loglevel", "error"]
    source = ["-protocol_whitelist", "file,pipe", "-f", form.demuxer, "-i", f"file:{path.absolute()}"]
    sound = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1", "-c:a", "pcm_f32le"]
    return [program(), *quiet, *source, *sound, "-f", "wav", "-bitexact", "pipe:1"]


def _run(command: Sequence[str], num_bytes: int, out: IO[bytes] | None = None) -> tuple[bytes, str]:
    """What the command writes to stdout (unless to `out`), and the first line of what it writes to stderr."""
    limit = _SECONDS + num_bytes * _SECONDS_PER_BYTE
    try:
        # In a session of its own: Ctrl-C would end it, and a file that was not read would count as damaged.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=out or subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit,
            start_new_session=True, check=False,
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"{command[0]}: cannot be started ({error.strerror}); run the same command again") from error
    except subprocess.TimeoutExpired as error:
        raise FfmpegError(f"ffmpeg: nothing after {limit:.0f} s") from error
    return done.stdout or b"", _reported(done.returncode, done.stderr.decode(errors="replace"), command)


def _reported(code: int, errors: str, command: Sequence[str]) -> str:
    """The first line that ffmpeg wrote to stderr, or "". Raises FfmpegError where it failed or the file is cut."""
    lines = errors.strip().splitlines()
    reported = lines[0].partition("] ")[2] or lines[0] if lines else ""
    if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
        name = signal.Signals(-code).name
        raise UsageError(f"ffmpeg was ended by {name} (out of memory?); run the same command again")
    if code and "No space left" in errors:
        raise _no_space("No space left on device")
    if code and "matches no streams" in reported:
        raise FfmpegError("ffmpeg: no sound in it, perhaps only pictures")
    if code:
        reason = (lines[-1] if lines else "").replace(command[command.index("-i") + 1], "the file")
        raise FfmpegError(f"ffmpeg: {reported or reason or f'exit code {code}'}")
    if _CUT_OFF.search(reported):
        raise FfmpegError(f"ends early ({reported})")
    return reported


def _parse_wav(wav: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """Samples (T, channels) and rate of the float WAV file that ffmpeg wrote to a pipe: its sizes are placeholders."""
    body, channels, rate_hz = _parse_header(wav)
    values = np.frombuffer(wav, "<f4", (len(wav) - body) // 4, body)
    return values[: len(values) // channels * channels].reshape(-1, channels), rate_hz


def _parse_header(wav: bytes) -> tuple[int, int, int]:
    """Byte offset of the samples, channels and rate."""
    form, body = wav.find(b"fmt "), wav.find(b"data", 0, _HEADER_BYTES)
    if form < 0 or body < 0:
        raise FfmpegError("ffmpeg: no sound in it")
    channels = int.from_bytes(wav[form + 10 : form + 12], "little")
    return body + 8, channels, int.from_bytes(wav[form + 12 : form + 16], "little")


class Stream(NamedTuple):
    """What a running ffmpeg reads: rate, channels, and the samples, float32 (n, channels) at a time."""

    rate_hz: int
    channels: int
    blocks: Generator[npt.NDArray[np.float32], None, str]
    """Returns the first error that ffmpeg reported, or ""."""


@contextlib.contextmanager
def stream(path: Path, form: AudioFormat, block_s: float) -> Iterator[Stream]:
    """A file of any length, in blocks of `block_s` seconds (the last is shorter), in flat memory, without a copy on
    disk. The blocks raise FfmpegError and UsageError as `read`, at the end for a file that is cut."""
    command = _decode_command(path, form)
    with tempfile.TemporaryFile(prefix="kws-") as errors:
        try:
            process = subprocess.Popen(  # in a session of its own, as in _run
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        except OSError as error:
            raise UsageError(
                f"{command[0]}: cannot be started ({error.strerror}); run the same command again"
            ) from error
        with process:
            try:
                yield _stream_of(process, errors, command, block_s)
            finally:
                process.kill()


def _stream_of(process: subprocess.Popen[bytes], errors: IO[bytes], command: Sequence[str], block_s: float) -> Stream:
    out = cast(IO[bytes], process.stdout)

    def end() -> str:
        errors.seek(0)
        return _reported(process.wait(), errors.read().decode(errors="replace"), command)

    head = out.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        end()
    body, channels, rate_hz = _parse_header(head)

    def blocks() -> Generator[npt.NDArray[np.float32], None, str]:
        rest, size, frames = head[body:], 4 * channels, max(1, round(block_s * rate_hz))
        while True:
            data = rest + out.read(max(frames * size - len(rest), 0))
            usable = min(len(data) // size, frames) * size
            if not usable:
                return end()
            yield np.frombuffer(data[:usable], "<f4").reshape(-1, channels)
            rest = data[usable:]

    return Stream(rate_hz, channels, blocks())


_Key = tuple[Path, int, int, int]
_kept: list[tuple[_Key, IO[bytes]]] = []
"""The last long recording that was converted: many excerpts are cut from one."""


@contextlib.contextmanager
def as_wav(file: IO[bytes], form: AudioFormat) -> Iterator[IO[bytes]]:
    """An open recording as an open WAV file, with the same channels and rate. Raises as `read`. Not for threads."""
    if isinstance(file, io.BytesIO):  # a member of an archive
        with _temporary(file.getvalue()) as copy, _convert(Path(copy.name), form) as wav:
            yield wav
        return
    found = os.fstat(file.fileno())
    key = (Path(file.name), found.st_ino, found.st_size, found.st_mtime_ns)
    if not _kept or _kept[0][0] != key:
        _forget()
        _kept.append((key, _convert(key[0], form)))
    yield _kept[0][1]


@atexit.register
def _forget() -> None:
    while _kept:
        _kept.pop()[1].close()


def _convert(path: Path, form: AudioFormat) -> IO[bytes]:
    """The WAV as an open file without a name."""
    file = tempfile.TemporaryFile(prefix="kws-")  # noqa: SIM115  (the caller closes it)
    try:
        _run(_decode_command(path, form), path.stat().st_size, file)
    except BaseException:
        file.close()
        raise
    return cast(IO[bytes], file)
