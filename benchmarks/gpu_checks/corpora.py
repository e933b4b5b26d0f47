"""Clips made here: tones, which any network learns in seconds, and noise, for speed.

Recordings are written as a folder for each word and packed with kws.packing, as `kws pack` does.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.gpu_checks.check import Context
from kws.audio import codec
from kws.audio.codec import Pcm
from kws.packing import pack

SECOND = 16_000
WORDS = ("low", "middle", "high", "top")


def tones(context: Context) -> Path:
    """A packed corpus of four words, each with its own pitch, and noise. 48 speakers."""
    return _packed(context, "tones", context.sized(1200, 320), _tone)


def clips(context: Context) -> Path:
    """The clips on which speed is measured: those of --data, or noise."""
    return context.data or _packed(context, "noise", context.sized(8000, 320), _noise)


def _tone(number: int) -> tuple[str, Pcm]:
    place, take = number % len(WORDS), number // len(WORDS)
    hz = 250.0 * 2**place * (1 + 0.01 * (take % 7))
    time = np.arange(SECOND) / SECOND
    hiss = np.random.default_rng(number).standard_normal(SECOND)
    return WORDS[place], ((0.3 * np.sin(2 * np.pi * hz * time) + 0.01 * hiss) * 32767).astype(np.int16)


def _noise(number: int) -> tuple[str, Pcm]:
    hiss = np.random.default_rng(number % 64).standard_normal(SECOND)
    return f"word{number % 10}", (np.roll(hiss, 251 * number) * 2000).astype(np.int16)


def _packed(context: Context, name: str, count: int, make: Callable[[int], tuple[str, Pcm]]) -> Path:
    """Makes the corpus, unless it is there already; two checks at once wait for one another."""
    folder = context.corpora / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "shards" / "index" / "index.json").exists():
            _write(folder / "wav", count, make)
            pack.pack([folder / "wav"], folder / "shards")
            shutil.rmtree(folder / "wav")
    return folder / "shards"


def _write(folder: Path, count: int, make: Callable[[int], tuple[str, Pcm]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for number in range(count):
        word, pcm = make(number)
        path = folder / word / f"{number % 48:08x}_nohash_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes(pcm))
    hiss = (np.random.default_rng(0).standard_normal(20 * SECOND) * 1000).astype(np.int16)
    (folder / "_background_noise_").mkdir()
    (folder / "_background_noise_" / "hiss.wav").write_bytes(codec.wav_bytes(hiss))


def recordings(context: Context, count: int) -> Path:
    """A folder of tones as WAV files, a folder a word, for kws predict."""
    folder = context.corpora / "recordings"
    if not folder.exists():
        for number in range(count):
            word, pcm = _tone(number)
            (folder / word).mkdir(parents=True, exist_ok=True)
            (folder / word / f"{number}.wav").write_bytes(codec.wav_bytes(pcm))
    return folder
