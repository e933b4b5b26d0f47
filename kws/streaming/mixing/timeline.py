"""The background of a file: which part of which recording is where, and its samples at any time.

    scenes of about a minute: one source, one level -> parts of its recordings, in random order, none a second time
    before all were used -> cross-fades of 50 ms -> samples

Without a source, coloured noise is generated. The samples do not depend on how the time is cut into reads.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.audio import codec
from kws.audio.codec import SAMPLE_RATE_HZ
from kws.corpus.acoustic_conditions import coloured_noise
from kws.errors import UsageError, unreadable
from kws.streaming.mixing.background import PART_S, Source
from kws.streaming.mixing.settings import MixSettings
from kws.streaming.mixing.speech import SILENCE_DB, Wave, active_db, amplitude

_FADE = round(0.05 * SAMPLE_RATE_HZ)
_SCENE = round(60 * SAMPLE_RATE_HZ)
_MOST_GAIN_DB, _LOUDEST = 20.0, 0.5
"""Limits of the gain of a part: dB, so that the hiss of a quiet recording stays quiet; and the largest sample."""
_KEPT = 3
"""Parts in memory: those that a block and the background around its words may need."""


class Piece(NamedTuple):
    """A part of the background of a file: first sample and number of samples in the file, including the fades; number
    of the source (-1: generated) and of its part, or of the noise; the level of its scene."""

    at: int
    samples: int
    source: int
    part: int
    level_db: float

    @property
    def end(self) -> int:
        """The sample of the file after its last."""
        return self.at + self.samples


class Backgrounds:
    """Plans the backgrounds of all files, one after another, and reads their parts."""

    def __init__(self, settings: MixSettings, sources: Sequence[Source]) -> None:
        self._settings, self.sources = settings, sources
        self._scene, self._next_part = 0, collections.Counter[int]()
        self._levels: dict[Piece, tuple[float, float]] = {}
        self._read = functools.lru_cache(_KEPT)(self._levelled)

    def pieces(self, file_samples: int) -> list[Piece]:
        """The pieces of the next file, of that many samples: each begins with a cross-fade from the one before."""
        self._levels.clear()
        self._read.cache_clear()
        pieces, at = list[Piece](), 0
        while not pieces or pieces[-1].end < file_samples:
            scene_start = at
            source, level = self._next_scene()
            while not pieces or pieces[-1].end < min(scene_start + _SCENE, file_samples):
                part, samples = self._draw(source)
                pieces.append(Piece(at, min(samples, file_samples - at), source, part, level))
                at = pieces[-1].end - _FADE
        return pieces

    def repeats(self) -> Iterator[str]:
        """Notes on sources that were used more than once."""
        for number, source in enumerate(self.sources):
            times = self._next_part[number] / len(source.parts)
            if times > 1:
                yield (
                    f"background {source.name}: its {source.hours:.2f} h were used {times:.1f} times; equal sounds "
                    "give equal false accepts, so intervals that take them for independent are too narrow"
                )

    def wave(self, piece: Piece) -> Wave:
        """The samples of a piece, without its fades."""
        return self._read(piece)

    def facts(self, piece: Piece) -> dict[str, object]:
        """A piece of the last planned file for the manifest, after it was read."""
        found: dict[str, object] = {"start_s": _seconds(piece.at), "seconds": _seconds(piece.samples)}
        if piece.source < 0:
            found |= {"generated": piece.part}
        else:
            recording, start, _ = self.sources[piece.source].parts[piece.part].tolist()
            name = self.sources[piece.source].names[recording]
            found |= {"source": piece.source, "recording": name, "offset_s": _seconds(start)}
        level, gain = self._levels[piece]
        return found | {"level_db": round(level, 2), "gain_db": round(gain, 2)}

    def _next_scene(self) -> tuple[int, float]:
        """Number of the source of the next scene, and its level: all sources have equally many scenes."""
        scene, count, seed = self._scene, len(self.sources), self._settings.seed
        self._scene += 1
        low, high = self._settings.background_db
        level = low + (high - low) * float(counter_rng.uniforms([scene], 1, "mix-level", seed)[0, 0])
        if not count:
            return -1, level
        turn, place = divmod(scene, count)
        return int(counter_rng.permutation(count, "mix-source", seed, turn)[place]), level

    def _draw(self, source: int) -> tuple[int, int]:
        """The number of the next part of a source, and its length in samples."""
        number = self._next_part[source]
        self._next_part[source] += 1
        if source < 0:
            return number, round(PART_S * SAMPLE_RATE_HZ)
        parts = self.sources[source].parts
        turn, place = divmod(number, len(parts))
        part = int(self._order(source, turn)[place])
        return part, int(parts[part, 2])

    @functools.lru_cache(8)  # noqa: B019  (one object for a command)
    def _order(self, source: int, turn: int) -> npt.NDArray[np.int64]:
        return counter_rng.permutation(len(self.sources[source].parts), "mix-part", self._settings.seed, source, turn)

    def _levelled(self, piece: Piece) -> Wave:
        wave = self._noise(piece) if piece.source < 0 else self._recorded(piece)
        found, peak = active_db(wave), float(np.abs(wave).max())
        if found <= SILENCE_DB:
            self._levels[piece] = SILENCE_DB, 0.0
            return wave
        gain = min(piece.level_db - found, _MOST_GAIN_DB)
        gain = min(gain, 20 * float(np.log10(_LOUDEST / peak)))
        self._levels[piece] = found + gain, gain
        return wave * np.float32(amplitude(gain))

    def _noise(self, piece: Piece) -> Wave:
        """Noise of a random colour between white and brown."""
        rng = counter_rng.generator("mix-noise", self._settings.seed, piece.part)
        return coloured_noise(rng, float(rng.uniform(0.0, 2.0)), round(PART_S * SAMPLE_RATE_HZ))[: piece.samples]

    def _recorded(self, piece: Piece) -> Wave:
        source = self.sources[piece.source]
        recording, start, _ = source.parts[piece.part].tolist()
        path = source.recordings[recording]
        try:
            with path.open("rb") as file:
                pcm = codec.decode_span(file, start / SAMPLE_RATE_HZ, (start + piece.samples) / SAMPLE_RATE_HZ)
        except codec.AudioError as error:
            raise UsageError(f"{path}: {error}; repair or remove it, and run the same command again") from error
        except OSError as error:
            raise unreadable(error, path) from error
        wave = pcm.astype(np.float32) / np.float32(32768)
        return np.pad(wave, (0, piece.samples - len(wave)))  # a rounded duration may be some samples too long


class Timeline:
    """The background of one file."""

    def __init__(self, backgrounds: Backgrounds, pieces: Sequence[Piece]) -> None:
        self._backgrounds, self.pieces = backgrounds, pieces
        self._starts = np.array([piece.at for piece in pieces])

    def read(self, start: int, end: int) -> Wave:
        """The samples from `start` to `end` (in samples of the file, inside it), (end - start,)."""
        wave = np.zeros(end - start, np.float32)
        for number in range(self._piece_at(start), len(self.pieces)):
            piece = self.pieces[number]
            if piece.at >= end:
                break
            low, high = max(start, piece.at), min(end, piece.end)
            if low < high:
                part = self._backgrounds.wave(piece)[low - piece.at : high - piece.at]
                wave[low - start : high - start] += part * self._fades(number, low, high)
        return wave

    def level_db(self, sample: int) -> float:
        """The level of the scene at a sample."""
        return self.pieces[int(np.searchsorted(self._starts, sample, side="right")) - 1].level_db

    def _piece_at(self, sample: int) -> int:
        """The number of the first piece that may reach to a sample: the one before the last that has begun."""
        return max(0, int(np.searchsorted(self._starts, sample, side="right")) - 2)

    def _fades(self, number: int, low: int, high: int) -> Wave:
        """The gain of a piece from sample `low` to `high`: 1 but for its fades, whose powers add up to 1."""
        piece, gain = self.pieces[number], np.ones(high - low, np.float32)
        if number:
            first = np.arange(low, min(high, piece.at + _FADE)) - piece.at
            gain[: len(first)] *= _ramp(first)
        if number + 1 < len(self.pieces):
            last = piece.end - 1 - np.arange(max(low, piece.end - _FADE), high)
            gain[len(gain) - len(last) :] *= _ramp(last)
        return gain


def _ramp(samples: npt.NDArray[np.int64]) -> Wave:
    """The gain so many samples after the start of a fade."""
    return np.sin(np.clip((samples + 0.5) / _FADE, 0, 1) * (np.pi / 2)).astype(np.float32)


def _seconds(samples: int) -> float:
    return samples / SAMPLE_RATE_HZ
