"""The microphone: blocks of 50 ms, and how loud they are.

    microphone -> blocks at its own rate, for `kws record`
               -> blocks at 16 kHz, without an end, for `kws listen`

The library `sounddevice` (PortAudio) is an optional dependency, imported only when a microphone is opened.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from kws.audio import codec
from kws.audio.resampler import Resampler
from kws.errors import UsageError

BLOCK_S = 0.05


class Block(NamedTuple):
    """Consecutive samples (n,). lost: whether samples were lost before them, because nobody read them in time."""

    pcm: codec.Pcm
    lost: bool


class Microphone:
    """A microphone, mono int16. Records inside a with statement.

    `device`: its number, or a part of its name, as `python -m sounddevice` lists them; "": the system's default.
    Raises UsageError where the library, PortAudio or a microphone is missing, or the microphone is disconnected.
    """

    def __init__(self, device: str = "") -> None:
        self._library = _library()
        self._reading, self._is_open = threading.Lock(), False
        self._device = self._find(device) if device else None
        try:
            default_hz = self._library.query_devices(self._device, "input")["default_samplerate"]
            self._rate = codec.SAMPLE_RATE_HZ if self._supports(codec.SAMPLE_RATE_HZ) else round(default_hz)
            self._stream = self._library.InputStream(self._rate, device=self._device, channels=1, dtype="int16")
        except self._library.PortAudioError as error:
            if device:
                raise UsageError(f"--device {device}: does not record ({error.args[0]}){self._others()}") from error
            raise UsageError(
                f"no microphone ({error.args[0]}); plug one in, choose it as the system's input, or give --device"
            ) from error

    def _find(self, device: str) -> int:
        """The number of the device. Raises UsageError, with the devices that there are."""
        try:
            found = self._library.query_devices(int(device) if device.isdecimal() else device, "input")
        except (ValueError, self._library.PortAudioError) as error:
            reason = str(error.args[0]).partition("\n")[0].rstrip(":")
            raise UsageError(f"--device {device}: {reason}{self._others()}") from error
        return int(found["index"])

    def _others(self) -> str:
        """`; wanted one of 0 (USB Audio), 3 (default)`; "" where there is none."""
        inputs = [found for found in self._library.query_devices() if found["max_input_channels"]]
        names = ", ".join(f"{found['index']} ({found['name']})" for found in inputs)
        return f"; wanted one of {names}" if names else "; no device that records was found"

    def _supports(self, rate: int) -> bool:
        try:
            self._library.check_input_settings(self._device, samplerate=rate, channels=1, dtype="int16")
        except self._library.PortAudioError:
            return False
        return True

    def __enter__(self) -> Self:
        try:
            self._stream.start()
        except self._library.PortAudioError as error:
            raise UsageError(
                f"the microphone does not start ({error.args[0]}); does another program use it?"
            ) from error
        self._is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._reading:  # closing a stream that another thread reads from would crash PortAudio
            self._is_open = False
            self._stream.close()

    def blocks(self, seconds: float = math.inf) -> Iterator[Block]:
        """Records for that many seconds, at the microphone's own rate. Ends when the microphone is closed."""
        left = seconds * self._rate
        left = left if math.isinf(left) else round(left)
        while left:
            size = int(min(left, round(BLOCK_S * self._rate)))
            with self._reading:
                if not self._is_open:
                    return
                try:
                    samples, lost = self._stream.read(size)
                except self._library.PortAudioError as error:
                    raise UsageError(
                        f"the microphone does not respond ({error.args[0]}); what was recorded so far is kept"
                    ) from error
            left -= size
            yield Block(samples[:, 0].copy(), bool(lost))

    def blocks_16_khz(self, seconds: float = math.inf) -> Iterator[Block]:
        """As `blocks`, resampled to 16 kHz as one recording: blocks differ in length, and the first may be empty."""
        if self._rate == codec.SAMPLE_RATE_HZ:
            yield from self.blocks(seconds)
            return
        resampler = Resampler(self._rate)
        for block in self.blocks(seconds):
            yield Block(resampler.push(codec.to_float(block.pcm)), block.lost)
        if len(last := resampler.finish()):
            yield Block(last, False)

    def as_pcm(self, samples: codec.Pcm) -> codec.Pcm:
        """Samples of a whole recording at the microphone's rate, resampled to 16 kHz."""
        if self._rate == codec.SAMPLE_RATE_HZ:
            return samples
        return codec.pcm_from_float(codec.to_float(samples), self._rate)


def level_db(block: codec.Pcm) -> float:
    """RMS level relative to full scale, in dB; -96 for silence."""
    power = float(np.mean(np.square(block.astype(np.float64) / 32768))) if len(block) else 0.0
    return max(-96.0, 10 * math.log10(power)) if power else -96.0


def _library() -> Any:
    try:
        import sounddevice  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("the microphone needs the library sounddevice; type: pip install 'kws[record]'") from error
    except OSError as error:  # importing it loads PortAudio
        raise UsageError(
            "the microphone needs PortAudio; type: apt-get install libportaudio2 (or your system's package of it)"
        ) from error
    return sounddevice
