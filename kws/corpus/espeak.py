"""Text to speech: espeak-ng, loaded from the wheel `espeakng_loader`, which brings library and data along.

    text, voice, rate, pitch, seed -> espeak-ng -> 16 kHz samples

Nothing is downloaded, and nothing of the system is used.
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
"""Of scratch folders."""
_INSTALL = "type: pip install espeakng-loader==0.2.4"


def refuse(where: str, found: object, wanted: str, todo: str) -> NoReturn:
    """Raises the UsageError."""
    raise UsageError(f"{where}: found {found}, wanted {wanted}; {todo}")


class Espeak:
    """espeak-ng in this process, with nothing left over from earlier use. Close it after use.

    Even espeak_Terminate leaves state standing (wave phase, flutter), so each object loads its own copy of the file:
    equal calls in equal order give equal samples. Takes a millisecond. Raises UsageError when it cannot be loaded.
    `scratch`: the folder for the copy, by default that of the system.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        library, data = find_espeak()
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=scratch)
        self._heard = bytearray()
        # espeak cuts data paths at 160 characters, which a deep venv exceeds: hand it a short link instead.
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
        self._callback = kind(self._hear)  # kept: ctypes frees a callback that nobody holds
        self._lib.espeak_SetSynthCallback(self._callback)

    def _hear(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._heard += ctypes.string_at(samples, 2 * count)
        return 0  # go on

    def _call(self, name: str, *args: object) -> None:
        if code := getattr(self._lib, name)(*args):
            raise RuntimeError(f"{name}{args} returned {code}")

    def say(self, text: str, voice: str, rate: int, pitch: int, seed: int) -> Audio:
        """Speak `text` with a voice, LANGUAGE+VARIANT: samples (N,) at 16 kHz, perhaps none.

        Raises RuntimeError when espeak returns an error code. An unknown variant is no error to espeak.
        """
        self._heard.clear()
        self._call("espeak_SetVoiceByName", voice.encode())
        self._lib.espeak_ng_SetRandSeed(seed)
        for number, value in ((1, rate), (2, 50), (3, pitch)):  # rate, volume (100 drives some variants too far), pitch
            self._call("espeak_SetParameter", number, value, 0)
        self._call("espeak_Synth", text.encode(), len(text.encode()) + 1, 0, 1, 0, 1, None, None)  # last 1: UTF-8
        self._call("espeak_Synchronize")
        heard = np.frombuffer(bytes(self._heard), "<i2").astype(np.float32) / 32768
        return np.asarray(soxr.resample(heard, self.sample_rate, SAMPLE_RATE_HZ), np.float32)

    def close(self) -> None:  # also removes the copy
        self._lib.espeak_Terminate()
        self._folder.cleanup()


def find_espeak() -> tuple[Path, Path]:
    """The library and the folder of its data. Raises UsageError."""
    try:
        import espeakng_loader  # type: ignore[import-untyped]
    except ImportError as error:
        refuse("synthesize", error, "the package espeakng_loader", _INSTALL)
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())


def check_language(name: str) -> None:
    """Raises UsageError for what is none of espeak's languages and accents: the files of its data's lang/."""
    known = sorted(path.name for path in (find_espeak()[1] / "lang").rglob("*") if path.is_file())
    if name not in known:
        near = difflib.get_close_matches(name.lower(), [known_name.lower() for known_name in known], 3, 0.5)
        like = [known_name for known_name in known if known_name.lower() in near]
        refuse("languages", repr(name), f"one of espeak-ng's {len(known)}", f"such as {', '.join(like or known[:5])}")


def is_variant(name: str) -> bool:
    """Whether there is that vocal tract: espeak speaks its plain voice for one that it does not know."""
    return (find_espeak()[1] / "voices" / "!v" / name).is_file()
