"""The steps that take the most time on a CPU, compiled by numba: waves, time stretch, frame shift and mixing.

Written as loops over samples they work in a core's L1 cache. The same steps as tensor operations on whole batches
(kws/audio/frames.py and waves.py, for GPUs) are bound by memory: the phase vocoder takes 250 us a clip that way and
22 us here. Both implementations give the same numbers; tests compare them with librosa.

Spectra are float32 with real and imaginary parts in turn: N frames of K bins are (N, 2 K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from kws.audio.augment_parameters import PHASE_EPSILON, Floats, Ints

Samples = npt.NDArray[np.float32]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_ONE, _ZERO = np.float32(1.0), np.float32(0.0)


def compiled(function: _Function) -> _Function:
    """The function compiled by numba, cached on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast(_Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no writable folder for numba's cache: compile at each start, which takes some seconds
        return cast(_Function, numba.njit(**options)(function))


@compiled
def transform_waves(
    wave: npt.NDArray[Any], lengths: Ints, gain: Floats, start: Floats, step: Floats, out: Samples
) -> None:
    """Writes to out (B, S) the clips of wave (B, T), read at positions start + i * step, times gain.

    A clip is the first `lengths` samples of its row. Interpolation is linear as in numpy.interp; the last sample holds
    for one step; outside the clip is silence.
    """
    for row in range(out.shape[0]):
        clip, length, factor = wave[row], lengths[row], np.float32(gain[row])
        if start[row] == 0.0 and step[row] == 1.0:
            last = min(length, out.shape[1])
            for place in range(last):
                out[row, place] = factor * np.float32(clip[place])
            out[row, last:] = _ZERO
            continue
        for place in range(out.shape[1]):
            # In float64: float32 is off by a thousandth of a sample at the end of a clip.
            position = start[row] + place * step[row]
            if position < 0.0 or position >= length:
                out[row, place] = _ZERO
                continue
            left = int(position)
            before, after = np.float32(clip[left]), np.float32(clip[min(left + 1, length - 1)])
            out[row, place] = factor * (before + np.float32(position - left) * (after - before))


@compiled
def _magnitudes(spectrum: Samples, added: np.float32, out: Samples) -> None:
    """Writes to out (N, K) the magnitudes of a spectrum (N, 2 K), with `added` added to the real parts."""
    for frame in range(out.shape[0]):
        for k in range(out.shape[1]):
            real, imag = spectrum[frame, 2 * k] + added, spectrum[frame, 2 * k + 1]
            out[frame, k] = np.sqrt(real * real + imag * imag)


@compiled
def _correct_phase(spectrum: Samples, expected: int, actual: int, cos: Samples, sin: Samples) -> None:
    """Rotates the phasors (cos, sin), (K,) each, by the phase difference of frame `expected` and frame `actual`."""
    for k in range(cos.shape[0]):
        expected_real, expected_imag = _ONE, _ZERO  # after the last frame
        if expected < spectrum.shape[0]:
            expected_real, expected_imag = spectrum[expected, 2 * k] + PHASE_EPSILON, spectrum[expected, 2 * k + 1]
        real, imag = spectrum[actual, 2 * k] + PHASE_EPSILON, spectrum[actual, 2 * k + 1]
        by_cos, by_sin = expected_real * real + expected_imag * imag, expected_imag * real - expected_real * imag
        scale = _ONE / np.sqrt(by_cos * by_cos + by_sin * by_sin)
        by_cos, by_sin = by_cos * scale, by_sin * scale
        cos[k], sin[k] = cos[k] * by_cos - sin[k] * by_sin, cos[k] * by_sin + sin[k] * by_cos


@compiled
def _write_frame(
    spectrum: Samples, magnitudes: Samples, left: int, fraction: float, phasors: Samples, out: Samples
) -> None:
    """Writes one output frame (2 K,) at position left + fraction.

    The magnitude is interpolated between both frames (`magnitudes`, with PHASE_EPSILON added); the phase is that of
    frame `left`, rotated by the `phasors` (2, K), cos and sin.
    """
    weight_right, weight_left = np.float32(fraction), _ONE - np.float32(fraction)
    is_last = left + 1 == spectrum.shape[0]  # after the last frame comes silence
    for k in range(magnitudes.shape[1]):
        magnitude = weight_left * magnitudes[left, k]
        if not is_last:
            magnitude += weight_right * magnitudes[left + 1, k]
        scale = magnitude / magnitudes[left, k]
        real, imag = (spectrum[left, 2 * k] + PHASE_EPSILON) * scale, spectrum[left, 2 * k + 1] * scale
        out[2 * k] = real * phasors[0, k] - imag * phasors[1, k]
        out[2 * k + 1] = real * phasors[1, k] + imag * phasors[0, k]


@compiled
def _num_output_frames(frames: int, rate: float) -> int:
    """Number of output frames at that rate: the length of np.arange(0, frames, rate)."""
    steps = int(np.ceil(frames / rate))
    return steps - (int((steps - 1) * rate) >= frames)  # where the quotient was rounded up


@compiled
def _transform_frames(spectrum: Samples, rate: float, shift: int, out: Samples) -> None:
    """Writes to out the frames (N, 2 K), stretched, then shifted (method: kws/audio/frames.py)."""
    frames = spectrum.shape[0]
    steps = _num_output_frames(frames, rate)
    out[:] = _ZERO
    if rate == 1.0:
        for frame in range(max(0, -shift), min(frames, frames - shift)):
            out[frame + shift] = spectrum[frame]
        return
    magnitudes, phasors = (
        np.empty((frames, spectrum.shape[1] // 2), np.float32),
        np.empty((2, spectrum.shape[1] // 2), np.float32),
    )
    _magnitudes(spectrum, PHASE_EPSILON, magnitudes)
    phasors[0], phasors[1] = _ONE, _ZERO
    expected = 0
    for step in range(steps):
        left = int(step * rate)
        if left != expected:
            _correct_phase(spectrum, expected, left, phasors[0], phasors[1])
        expected = left + 1
        if 0 <= step + shift < frames and (step + shift < steps):
            _write_frame(spectrum, magnitudes, left, step * rate - left, phasors, out[step + shift])


@compiled
def _transform_frames_power(spectrum: Samples, rate: float, shift: int, out: Samples) -> None:
    """Writes to out (N, K) the power of the frames (N, 2 K), stretched, then shifted; power needs no phases."""
    frames, bins = out.shape
    steps = _num_output_frames(frames, rate)
    out[:] = _ZERO
    if rate == 1.0:
        for frame in range(max(0, -shift), min(frames, frames - shift)):
            for k in range(bins):
                real, imag = spectrum[frame, 2 * k], spectrum[frame, 2 * k + 1]
                out[frame + shift, k] = real * real + imag * imag
        return
    magnitudes = np.empty((frames, bins), np.float32)
    _magnitudes(spectrum, _ZERO, magnitudes)
    for step in range(max(0, -shift), min(steps, frames - shift, steps - shift)):
        left = int(step * rate)
        weight_right = np.float32(step * rate - left)
        weight_left, at = _ONE - weight_right, step + shift
        for k in range(bins):
            magnitude = weight_left * magnitudes[left, k]
            if left + 1 < frames:
                magnitude += weight_right * magnitudes[left + 1, k]
            out[at, k] = magnitude * magnitude


@compiled
def power(spectra: Samples, out: Samples) -> None:
    """Writes to out (B, N, K) the power of spectra (B, N, 2 K): the same bits as transformed_power without a change."""
    for row in range(out.shape[0]):
        for frame in range(out.shape[1]):
            for k in range(out.shape[2]):
                real, imag = spectra[row, frame, 2 * k], spectra[row, frame, 2 * k + 1]
                out[row, frame, k] = real * real + imag * imag


@compiled
def transformed_power(spectra: Samples, rate: Floats, shift: Ints, partner: Ints, share: Floats, out: Samples) -> None:
    """Writes to out (B, N, K) the power of frames that were stretched, shifted and mixed with other rows.

    spectra (R, N, 2 K): each row has its own `rate` and `shift` (R,). Of the first B rows, row b is mixed with row
    `partner[b]` as (1 - share[b]) row + share[b] partner; where `partner[b]` is -1 it is not mixed.
    """
    own, other = np.empty_like(spectra[0]), np.empty_like(spectra[0])
    for row in range(out.shape[0]):
        mate = partner[row]
        if mate < 0:
            _transform_frames_power(spectra[row], rate[row], shift[row], out[row])
            continue
        _transform_frames(spectra[row], rate[row], shift[row], own)
        _transform_frames(spectra[mate], rate[mate], shift[mate], other)
        weight_other = np.float32(share[row])
        weight_own = _ONE - weight_other
        for frame in range(out.shape[1]):
            for k in range(out.shape[2]):
                real = weight_own * own[frame, 2 * k] + weight_other * other[frame, 2 * k]
                imag = weight_own * own[frame, 2 * k + 1] + weight_other * other[frame, 2 * k + 1]
                out[row, frame, k] = real * real + imag * imag
