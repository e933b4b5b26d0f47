"""Text to speech with espeak-ng, from the wheel `espeakng_loader`, which contains the library and its data.

    text, voice, rate, pitch, seed -> espeak-ng -> 16 kHz samples

Nothing is downloaded, and no library of the system is used.
"""

from __future__ import annotations

import ctypes
import difflib
import shutil
import tempfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from kws.audio.codec import SAMPLE_RATE_HZ
from kws.errors import UsageError

Audio = NDArray[np.float32]  # one channel, full scale is 1.0
PREFIX = "kws-espeak-"
"""What the names of scratch folders begin with."""
_INSTALL = "type: pip install espeakng-loader==0.2.4"


def refuse(where: str, found: object, wanted: str, advice: str) -> NoReturn:
    """Raises a UsageError."""
    raise UsageError(f"{where}: found {found}, wanted {wanted}; {advice}")


class Espeak:
    """An espeak-ng of its own, without state of earlier use. Close it after use.

    Even espeak_Terminate keeps some state (wave phase, flutter), so each object loads its own copy of the library file,
    which takes a millisecond: the same calls in the same order then give the same samples. `scratch`: the folder for
    the copy, by default the system's. Raises UsageError when espeak-ng cannot be loaded.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        library, data = find_espeak()
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=scratch)
        self._received = bytearray()
        # espeak truncates data paths at 160 characters, which a deep virtual environment exceeds: give it a short link.
        link, copy = Path(self._folder.name, "espeak-ng-data"), Path(self._folder.name, "espeak.so")
        try:
            link.symlink_to(data)
            self._lib = ctypes.CDLL(str(shutil.copy(library, copy)))
            self._lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
            # 2: synchronous, no sound device; 0x8000: return an error instead of ending the process.
            self.sample_rate = int(self._lib.espeak_Initialize(2, 0, str(link).encode(), 0x8000))
            if self.sample_rate <= 0:
                raise OSError(f"espeak_Initialize returned {self.sample_rate} for {data}")
        except (OSError, AttributeError) as error:
            self._folder.cleanup()
            refuse(str(library), error, "a loadable espeak-ng 1.52", _INSTALL)
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self.version: str = self._lib.espeak_Info(None).decode()
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)  # stored, because ctypes frees a callback without a reference
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._received += ctypes.string_at(samples, 2 * count)
        return 0  # continue

    def _call(self, name: str, *args: object) -> None:
        if code := getattr(self._lib, name)(*args):
            raise RuntimeError(f"{name}{args} returned {code}")

    def speak(self, text: str, voice: str, rate: int, pitch: int, seed: int) -> Audio:
        """The text spoken by a voice, LANGUAGE+VARIANT: samples (N,) at 16 kHz; N may be 0.

        Raises RuntimeError when espeak returns an error code. For an unknown variant it returns none.
        """
        self._received.clear()
        self._call("espeak_SetVoiceByName", voice.encode())
        self._lib.espeak_ng_SetRandSeed(seed)
        for number, value in ((1, rate), (2, 50), (3, pitch)):  # rate, volume (100 drives some variants too far), pitch
            self._call("espeak_SetParameter", number, value, 0)
        self._call("espeak_Synth", text.encode(), len(text.encode()) + 1, 0, 1, 0, 1, None, None)  # last 1: UTF-8
        self._call("espeak_Synchronize")
        speech = np.frombuffer(bytes(self._received), "<i2").astype(np.float32) / 32768
        return np.asarray(soxr.resample(speech, self.sample_rate, SAMPLE_RATE_HZ), np.float32)

    def close(self) -> None:
        """Ends espeak-ng and removes its scratch folder."""
        self._lib.espeak_Terminate()
        self._folder.cleanup()


def find_espeak() -> tuple[Path, Path]:
    """The paths of the library and of its data folder. Raises UsageError where the wheel is missing."""
    try:
        import espeakng_loader  # type: ignore[import-untyped]
    except ImportError as error:
        refuse("synthesize", error, "the package espeakng_loader", _INSTALL)
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def check_language(name: str) -> None:
    """Raises UsageError for a language or accent that espeak does not have: these are the files below lang/ of its
    data."""
    known = sorted(path.name for path in (find_espeak()[1] / "lang").rglob("*") if path.is_file())
    if name not in known:
        near = difflib.get_close_matches(name.lower(), [known_name.lower() for known_name in known], 3, 0.5)
        like = [known_name for known_name in known if known_name.lower() in near]
        refuse("languages", repr(name), f"one of espeak-ng's {len(known)}", f"such as {', '.join(like or known[:5])}")


def is_variant(name: str) -> bool:
    """Whether espeak has that variant (vocal tract). For an unknown one it would silently use its default voice."""
    return (find_espeak()[1] / "voices" / "!v" / name).is_file()
