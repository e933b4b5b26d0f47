"""The steps that a CPU spends its time on, compiled (numba): playing waves, stretching and mixing frames.

Written out sample by sample they stay in a core's nearest cache; as operations on whole batches (kws/audio/frames.py,
for GPUs) the same steps are bound by memory: the phase vocoder took 250 us a clip so, and takes 22 here. Both give
the same numbers, which tests hold against librosa's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from kws.audio.augment_parameters import NOTHING, Floats, Ints

Samples = npt.NDArray[np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_ONE, _ZERO = np.float32(1.0), np.float32(0.0)


def _compiled(function: _Function) -> _Function:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(_Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder where compiled code could be kept: compiled anew at each start, some seconds
        return cast(_Function, numba.njit(**options)(function))


@_compiled
def play(wave: npt.NDArray[Any], lengths: Ints, gain: Floats, start: Floats, step: Floats, out: Samples) -> None:
    """Samples (B, T), of which the first `lengths` of each row are the clip -> out (B, S): from `start` on by `step`,
    times `gain`, by linear interpolation as numpy's `interp` (its last sample holds for one step), silence outside."""
    for row in range(out.shape[0]):
        clip, length, loud = wave[row], lengths[row], np.float32(gain[row])
        if start[row] == 0.0 and step[row] == 1.0:
            last = min(length, out.shape[1])
            for place in range(last):
                out[row, place] = loud * np.float32(clip[place])
            out[row, last:] = _ZERO
            continue
        for place in range(out.shape[1]):
            # In float64: float32 is off by a thousandth of a sample at the end of a clip.
            source = start[row] + place * step[row]
            if source < 0.0 or source >= length:
                out[row, place] = _ZERO
                continue
            low = int(source)
            before, behind = np.float32(clip[low]), np.float32(clip[min(low + 1, length - 1)])
            out[row, place] = loud * (before + np.float32(source - low) * (behind - before))


@_compiled
def _sizes(spectrum: Samples, added: np.float32, out: Samples) -> None:
    """Magnitudes of (N, 2 K), (N, K), with something added to the real parts."""
    for frame in range(out.shape[0]):
        for k in range(out.shape[1]):
            real, imag = spectrum[frame, 2 * k] + added, spectrum[frame, 2 * k + 1]
            out[frame, k] = np.sqrt(real * real + imag * imag)


@_compiled
def _turn(spectrum: Samples, expected: int, found: int, cos: Samples, sin: Samples) -> None:
    """The phase was to go to frame `expected` and went to `found`: turns (cos, sin), (K,), by their difference."""
    for k in range(cos.shape[0]):
        ahead_real, ahead_imag = _ONE, _ZERO  # behind the last frame
        if expected < spectrum.shape[0]:
            ahead_real, ahead_imag = spectrum[expected, 2 * k] + NOTHING, spectrum[expected, 2 * k + 1]
        real, imag = spectrum[found, 2 * k] + NOTHING, spectrum[found, 2 * k + 1]
        by_cos, by_sin = ahead_real * real + ahead_imag * imag, ahead_imag * real - ahead_real * imag
        scale = _ONE / np.sqrt(by_cos * by_cos + by_sin * by_sin)
        by_cos, by_sin = by_cos * scale, by_sin * scale
        cos[k], sin[k] = cos[k] * by_cos - sin[k] * by_sin, cos[k] * by_sin + sin[k] * by_cos


@_compiled
def _place(spectrum: Samples, sizes: Samples, low: int, part: float, turn: Samples, out: Samples) -> None:
    """One output frame (2 K,), `part` of the way from frame `low` to the next: magnitude between the two (`sizes`, with
    NOTHING added), phase of the first, turned by (cos, sin) = `turn` (2, K)."""
    behind, before = np.float32(part), _ONE - np.float32(part)
    last = low + 1 == spectrum.shape[0]  # after it comes silence
    for k in range(sizes.shape[1]):
        size = before * sizes[low, k]
        if not last:
            size += behind * sizes[low + 1, k]
        scale = size / sizes[low, k]
        real, imag = (spectrum[low, 2 * k] + NOTHING) * scale, spectrum[low, 2 * k + 1] * scale
        out[2 * k] = real * turn[0, k] - imag * turn[1, k]
        out[2 * k + 1] = real * turn[1, k] + imag * turn[0, k]


@_compiled
def _steps(frames: int, rate: float) -> int:
    """Frames that come out at that rate, as of numpy's `arange(0, frames, rate)`."""
    steps = int(np.ceil(frames / rate))
    return steps - (int((steps - 1) * rate) >= frames)  # where the quotient was rounded up to more


@_compiled
def _move(spectrum: Samples, rate: float, shift: int, out: Samples) -> None:
    """Frames (N, 2 K) stretched, then shifted, with their phases (method: kws/audio/frames.py)."""
    frames = spectrum.shape[0]
    steps = _steps(frames, rate)
    out[:] = _ZERO
    if rate == 1.0:
        for frame in range(max(0, -shift), min(frames, frames - shift)):
            out[frame + shift] = spectrum[frame]
        return
    sizes, turn = (
        np.empty((frames, spectrum.shape[1] // 2), np.float32),
        np.empty((2, spectrum.shape[1] // 2), np.float32),
    )
    _sizes(spectrum, NOTHING, sizes)
    turn[0], turn[1] = _ONE, _ZERO
    expected = 0
    for step in range(steps):
        low = int(step * rate)
        if low != expected:
            _turn(spectrum, expected, low, turn[0], turn[1])
        expected = low + 1
        if 0 <= step + shift < frames and (step + shift < steps):
            _place(spectrum, sizes, low, step * rate - low, turn, out[step + shift])


@_compiled
def _move_power(spectrum: Samples, rate: float, shift: int, out: Samples) -> None:
    """Power (N, K) of the frames (N, 2 K) stretched, then shifted: magnitudes are all it takes."""
    frames, bins = out.shape
    steps = _steps(frames, rate)
    out[:] = _ZERO
    if rate == 1.0:
        for frame in range(max(0, -shift), min(frames, frames - shift)):
            for k in range(bins):
                real, imag = spectrum[frame, 2 * k], spectrum[frame, 2 * k + 1]
                out[frame + shift, k] = real * real + imag * imag
        return
    sizes = np.empty((frames, bins), np.float32)
    _sizes(spectrum, _ZERO, sizes)
    for step in range(max(0, -shift), min(steps, frames - shift, steps - shift)):
        low = int(step * rate)
        behind = np.float32(step * rate - low)
        before, at = _ONE - behind, step + shift
        for k in range(bins):
            size = before * sizes[low, k]
            if low + 1 < frames:
                size += behind * sizes[low + 1, k]
            out[at, k] = size * size


@_compiled
def power(spectra: Samples, rate: Floats, shift: Ints, partner: Ints, share: Floats, out: Samples) -> None:
    """Frames stretched and shifted, mixed with others of the same batch -> their power.

    spectra (R, N, 2 K): real and imaginary parts in turn, each row with its `rate` and `shift` (R,). out (B, N, K): of
    the first B rows, row b mixed with row `partner[b]` as (1 - share) b + share partner; -1: as it is.
    """
    one, other = np.empty_like(spectra[0]), np.empty_like(spectra[0])
    for row in range(out.shape[0]):
        mate = partner[row]
        if mate < 0:
            _move_power(spectra[row], rate[row], shift[row], out[row])
            continue
        _move(spectra[row], rate[row], shift[row], one)
        _move(spectra[mate], rate[mate], shift[mate], other)
        part = np.float32(share[row])
        rest = _ONE - part
        for frame in range(out.shape[1]):
            for k in range(out.shape[2]):
                real = rest * one[frame, 2 * k] + part * other[frame, 2 * k]
                imag = rest * one[frame, 2 * k + 1] + part * other[frame, 2 * k + 1]
                out[row, frame, k] = real * real + imag * imag
