"""How clips were recorded: length, level, noise floor, bandwidth, clipping and DC offset, of a sample of a corpus.

    index --a random sample for each word and split--> audio members of shards --measure--> Conditions (clips, ...)

A network can learn how a word was recorded instead of the word. kws/packing/condition_leaks.py looks for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from kws import counter_rng
from kws.audio import codec
from kws.data.index import Index, Split
from kws.data.shard_fetch import ShardSource
from kws.errors import UsageError
from kws.transport import describe_error

MEASURES = ("length_s", "level_db", "floor_db", "bandwidth_hz", "clipped", "offset")
"""Measures of a clip. Levels are in dB of full scale; clipped: share of the samples; offset: mean, as a share of full
scale. NaN where something can't be measured, such as the noise floor of a clip without a pause."""
SAMPLED = 100
"""Clips of each word and split that are measured, where there are not too many words."""
_ALL_CELLS = 6_000
"""Clips that are measured in all; takes about 10 s."""
_FEWEST = 12
_LONGEST_S = 10.0
"""Of longer clips the beginning is measured."""
_TIMEOUT_S = 20.0
_SILENCE_DB = -80.0
"""Lower levels count as this: below are rounding noise and digital silence."""
_FRAME, _WINDOW, _HOP, _BANDS = 320, 512, 256, 64
_STEADY_DB, _STEADY_FRAMES = 6.0, 5
"""A noise floor: at least that many frames of 20 ms within that range above the lowest tenth."""
_LOWEST_CUT, _TRANSITION, _CUT_DB = 16, 3, 20.0
"""A cut-off: from 2 kHz on, the bands above it (of 125 Hz, after a transition of three) are that much lower."""
Values = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What was measured of a sample of clips.

    words: (clips,) numbers into the index's words; splits: (clips,) names; values: (clips, MEASURES); total: clips in
    the corpus.
    """

    words: npt.NDArray[np.int64]
    splits: npt.NDArray[np.str_]
    values: Values
    total: int


def measure_corpus(
    index: Index, per_cell: int | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Conditions:
    """Measures a sample of each word in each split; noise is left out.

    `per_cell`: clips of a word in a split (default: as many as take about 10 s). Raises UsageError for shards that
    cannot be read; damaged clips are left out.
    """
    splits = [split for name, split in index.splits.items() if name != "noise" and len(split)]
    cells = sum(int((split.cells.sum(axis=0) > 0).sum()) for split in splits)
    limit = per_cell or max(_FEWEST, min(SAMPLED, _ALL_CELLS // max(1, cells)))
    chosen = [(split, _sample(split, limit, len(index.words))) for split in splits]
    total = sum(len(rows) for _, rows in chosen)
    words, names, values = list[int](), list[str](), list[Values]()
    for split, rows in chosen:
        for row, pcm in _read(index, split, rows):
            words.append(int(split.columns["word"][row]))
            names.append(split.name)
            values.append(measure(pcm))
            progress(len(words), total)
    table = np.array(values).reshape(-1, len(MEASURES))
    return Conditions(np.array(words, np.int64), np.array(names, np.str_), table, sum(map(len, splits)))


def _sample(split: Split, limit: int, num_words: int) -> npt.NDArray[np.int64]:
    """Rows of up to `limit` clips of each word, in the order of the shards: those with the lowest random numbers."""
    kept_rows, kept_places = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    kept_words, start = np.zeros(0, np.int64), 0
    for words, names in split.chunks("word", "name"):
        rows = np.arange(start, start + len(words))
        start += len(words)
        places = counter_rng.bits(names, 1, "conditions")[:, 0]
        kept_rows, kept_places = np.concatenate([kept_rows, rows]), np.concatenate([kept_places, places])
        kept_words = np.concatenate([kept_words, words.astype(np.int64)])
        order = np.lexsort((kept_places, kept_words))
        ends = np.bincount(kept_words, minlength=num_words).cumsum()
        rank = np.arange(len(order)) - np.concatenate([[0], ends])[kept_words[order]]
        order = order[rank < limit]
        kept_rows, kept_places, kept_words = kept_rows[order], kept_places[order], kept_words[order]
    return np.sort(kept_rows)


def _read(index: Index, split: Split, rows: Sequence[int] | npt.NDArray[np.int64]) -> Iterator[tuple[int, codec.Pcm]]:
    """The samples of these clips."""
    source, columns = ShardSource(index.root, index.source), split.columns
    for row in rows:
        shard = split.shards[int(columns["shard"][row])]
        data = _read_bytes(source, shard.name, int(columns["offset"][row]), int(columns["length"][row]))
        with contextlib.suppress(codec.AudioError):  # kws verify names damaged clips
            yield int(row), codec.decode(data)[: round(_LONGEST_S * codec.SAMPLE_RATE_HZ)]


def _read_bytes(source: ShardSource, name: str, offset: int, length: int) -> bytes:
    """A part of a shard; shorter where the shard ends early. Raises UsageError where it cannot be read."""
    try:
        with source.open(name, offset, _TIMEOUT_S) as response:
            skipped = offset - response.start  # a server or command that cannot seek begins at 0
            data = memoryview(bytearray(skipped + length))
            filled = 0
            while filled < len(data) and (count := response.readinto(data[filled:])):
                filled += count
            return bytes(data[skipped:filled])
    except (OSError, http.client.HTTPException) as error:
        raise UsageError(f"{source.shown(name)}: cannot be read ({describe_error(error)}); wanted a shard") from error


def measure(pcm: codec.Pcm) -> Values:
    """The MEASURES of a clip, (6,), from its samples, int16 (T,)."""
    samples = pcm.astype(np.float64) / 32768
    offset = float(samples.mean())
    samples -= offset
    frames = _frame_levels(samples)
    return np.array([
        len(pcm) / codec.SAMPLE_RATE_HZ, float(np.percentile(frames, 95)), _noise_floor(frames), _bandwidth(samples),
        float((np.abs(pcm.astype(np.int32)) >= 32767).mean()), offset,
    ])  # fmt: skip


def _frame_levels(samples: Values) -> Values:
    """RMS levels of frames of 20 ms, in dB of full scale."""
    if len(samples) < _FRAME:
        samples = np.pad(samples, (0, _FRAME - len(samples)))
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    levels: Values = 10 * np.log10(np.maximum((frames**2).mean(axis=1), 10 ** (_SILENCE_DB / 10)))
    return levels


def _noise_floor(levels: Values) -> float:
    """The lowest tenth of the frames, where several are about as low: in a clip without a pause the lowest frames are
    the word's own."""
    lowest = float(np.percentile(levels, 10))
    steady = int(((levels >= lowest - _STEADY_DB / 2) & (levels <= lowest + _STEADY_DB / 2)).sum())
    return lowest if steady >= _STEADY_FRAMES else math.nan


def _bandwidth(samples: Values) -> float:
    """The frequency in Hz at which the spectrum is cut off, as by a lower sample rate or a codec; 8000 where it is not.

    A cut-off is steep: the spectrum of speech itself falls slowly, and differs by word.
    """
    nyquist = codec.SAMPLE_RATE_HZ / 2
    if len(samples) < _WINDOW:
        return math.nan
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = (np.abs(np.fft.rfft(frames)[:, 1:]) ** 2).mean(axis=0).reshape(_BANDS, -1).mean(axis=1)
    bands = 10 * np.log10(power + 1e-9)
    below = np.array([bands[k - _TRANSITION : k].mean() for k in range(_LOWEST_CUT, _BANDS - _TRANSITION)])
    above = np.array([bands[k + _TRANSITION :].max() for k in range(_LOWEST_CUT, _BANDS - _TRANSITION)])
    drops = below - above
    at = int(drops.argmax())
    return (_LOWEST_CUT + at) * nyquist / _BANDS if drops[at] >= _CUT_DB else nyquist
