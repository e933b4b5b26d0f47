"""The samples of a file, block by block: its background, and the words at their levels in their rooms.

    clip -> its speech and 0.2 s around it, faded -> room -> gain: level of the background around it + SNR
         -> less where the sum would clip -> added to the background -> int16

SNR: the speech-active RMS (kws/streaming/mixing/speech.py) of the word from start to end of its speech, in its room,
over that of the background from 1 s before to 1 s after it. In a pause of the background the latter counts as 20 dB
below the level of the scene.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from kws import counter_rng
from kws.audio import rooms
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.data.reader import Reader
from kws.streaming.mixing.placement import Placed
from kws.streaming.mixing.settings import MixSettings
from kws.streaming.mixing.speech import Wave, active_db, amplitude
from kws.streaming.mixing.timeline import Timeline

_BLOCK = 10 * SAMPLE_RATE_HZ
_MARGIN, _FADE = round(0.2 * SAMPLE_RATE_HZ), round(0.02 * SAMPLE_RATE_HZ)
_AROUND = SAMPLE_RATE_HZ
_PAUSE_DB = 20.0
_LOUDEST = 0.98
"""No sample of background and word together is above this part of full scale."""
_SNR, _IN_ROOM = 0, 1
"""Columns of a word's uniform numbers."""


@dataclasses.dataclass(frozen=True)
class Mixed:
    """A word at its level: its samples (n,) from sample `at` of the file on, and what was drawn and measured for it.

    snr_db: as drawn. loss_db: by how much the real SNR is lower, so that nothing clips. background_db: the level of the
    background around the word. room: whether it is in a synthetic room.
    """

    placed: Placed
    at: int
    wave: Wave
    snr_db: float
    loss_db: float
    background_db: float
    room: bool


class Renderer:
    """Renders files. words: those of the last file, in order of time, without their samples. clipped: number of its
    samples above full scale."""

    def __init__(self, settings: MixSettings, reader: Reader) -> None:
        self._settings, self._reader = settings, reader
        self.words: list[Mixed] = []
        self.clipped = 0

    def blocks(self, timeline: Timeline, placed: Sequence[Placed], samples: int) -> Iterator[Pcm]:
        """The samples of a file, int16, in blocks."""
        self.words, self.clipped = [], 0
        waiting, sounding = list(reversed(placed)), list[Mixed]()
        for start in range(0, samples, _BLOCK):
            end = min(start + _BLOCK, samples)
            while waiting and waiting[-1].at - _MARGIN < end:
                word = self._mixed(waiting.pop(), timeline, samples)
                sounding.append(word)
                self.words.append(dataclasses.replace(word, wave=np.zeros(0, np.float32)))
            block = timeline.read(start, end)
            for word in sounding:
                _add(block, start, word)
            sounding = [word for word in sounding if word.at + len(word.wave) > end]
            whole = np.rint(block * 32768)
            self.clipped += int((np.abs(whole) > 32767).sum())
            yield np.clip(whole, -32768, 32767).astype(np.int16)

    def _mixed(self, placed: Placed, timeline: Timeline, samples: int) -> Mixed:
        settings, kind = self._settings, "mix-word" if placed.is_target else "mix-distractor"
        uniforms = counter_rng.uniforms([placed.number], 2, kind, settings.seed, "acoustics")[0]
        low, high = settings.snr_db
        snr, in_room = low + (high - low) * float(uniforms[_SNR]), bool(uniforms[_IN_ROOM] < settings.rooms)
        wave, lead = self._faded(placed)
        if in_room:
            wave = self._in_room(wave, counter_rng.generator(kind, settings.seed, "room", placed.number))
        at = placed.at - lead
        wave = wave[: samples - at]
        speech = wave[lead : lead + placed.end - placed.at]
        around = timeline.read(max(0, placed.at - _AROUND), min(samples, placed.end + _AROUND))
        background = max(active_db(around), timeline.level_db(placed.at) - _PAUSE_DB)
        wave = wave * np.float32(amplitude(background + snr - active_db(speech)))
        loss = _loss_db(wave, timeline.read(at, at + len(wave)))
        return Mixed(placed, at, wave * np.float32(amplitude(-loss)), snr, loss, background, in_room)

    def _faded(self, placed: Placed) -> tuple[Wave, int]:
        """The speech of a clip with a margin, faded in and out, and the number of samples before the speech."""
        pcm, speech = self._reader.read(placed.clip), placed.speech
        start, end = max(0, speech.start - _MARGIN), min(len(pcm), speech.end + _MARGIN)
        wave = pcm[start:end].astype(np.float32) / np.float32(32768)
        fade = np.sin(np.linspace(0, np.pi / 2, min(_FADE, len(wave) // 2), dtype=np.float32)) ** 2
        wave[: len(fade)] *= fade
        wave[len(wave) - len(fade) :] *= fade[::-1]
        return wave, speech.start - start

    def _in_room(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """The sound in a random room, with the room's whole decay."""
        response = rooms.impulse_response(rng, self._settings.room_seconds)
        samples = len(wave) + len(response) - 1
        size = 1 << (samples - 1).bit_length()
        wet = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[:samples]
        return wet.astype(np.float32)


def _loss_db(wave: Wave, background: Wave) -> float:
    """By how much a word has to be lower, so that no sample of it and the background together is above _LOUDEST."""
    room = np.maximum(_LOUDEST - np.abs(background), 0.01)
    excess = float((np.abs(wave) / room).max(initial=0.0))
    return 20 * float(np.log10(excess)) if excess > 1 else 0.0


def _add(block: Wave, start: int, word: Mixed) -> None:
    low, high = max(start, word.at), min(start + len(block), word.at + len(word.wave))
    if low < high:
        block[low - start : high - start] += word.wave[low - word.at : high - word.at]
