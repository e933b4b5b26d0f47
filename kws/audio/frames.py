"""A spectrogram's frames stretched in time and moved, by row operations on batches.

    complex (B, N, K) -> phase vocoder at a rate of the clip's own -> shift by whole frames -> N frames again

The phase vocoder gives output frame k, at time k * rate of the input, the magnitude between the two frames around it
and a phase that goes on by the phase difference of those two. Accumulated phase modulo 2 pi is a running product of
unit phasors, so no angle is computed; and where the input goes on by one frame the product telescopes to that
frame's own phase. So only the few places where a frame is repeated or left out need a multiplication, and everything
else is picking rows. Equal to librosa's `phase_vocoder`, sample by sample.

Source of the method: Flanagan and Golden, "Phase vocoder", Bell System Technical Journal, 1966; the form with
magnitudes between frames: Ellis, "A phase vocoder in Matlab", 2002.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws.audio.augment_parameters import NOTHING, Course, Flags, Floats, Ints


@dataclasses.dataclass(frozen=True)
class Path:
    """Where the output's frames come from; (B, N) each but for the last two."""

    low: Ints
    """Input frame before the place."""
    high: Ints
    """Input frame behind it."""
    weight_low: npt.NDArray[np.float64]
    weight_high: npt.NDArray[np.float64]
    """Of their magnitudes; both 0 where silence was moved in."""
    turns: Ints
    """How many times the phase has left the input's, up to this frame."""
    expected: Ints
    """The frames that the phase would have gone on to at its turns, (B, E); those behind a clip's last are not used."""
    found: Ints
    """The frames that it went on to, (B, E)."""

    @classmethod
    def of(cls, course: Course, frames: int) -> Path:
        """Of (B,) courses through N frames."""
        rate, output = course.rate[:, None], np.arange(frames)
        steps = np.ceil(frames / rate).astype(np.int64)  # output frames that there are, as of np.arange(0, N, rate)
        steps -= ((steps - 1) * rate).astype(np.int64) >= frames  # where the quotient was rounded up to more
        order = output - course.shift[:, None]
        inside = (order >= 0) & (order < steps) & (output < steps)
        order = np.where(inside, order, 0)
        time = order * rate
        low = time.astype(np.int64)
        part = time - low
        behind = low + 1 < frames  # after the last frame comes silence
        expected, found, turns = _turns(rate, int(steps.max(initial=1)), frames)
        return cls(
            low, np.where(behind, low + 1, low), np.where(inside, 1.0 - part, 0.0),
            np.where(inside & behind, part, 0.0), np.take_along_axis(turns, order, axis=1), expected, found,
        )  # fmt: skip

    def take(self, rows: Ints) -> Path:
        """Of some of the clips."""
        turns = self.turns[rows]
        most = int(turns.max(initial=0))
        ends = (self.expected[rows, :most], self.found[rows, :most])
        return Path(self.low[rows], self.high[rows], self.weight_low[rows], self.weight_high[rows], turns, *ends)


def _turns(rate: npt.NDArray[np.float64], steps: int, frames: int) -> tuple[Ints, Ints, Ints]:
    """Where the phase leaves the input's at these rates (B, 1): what it would have gone on to and what it went on to,
    (B, E) each; and how often that was up to each output frame, (B, steps)."""
    at = np.minimum((np.arange(steps) * rate).astype(np.int64), frames - 1)
    expected, found = np.minimum(at[:, :-1] + 1, frames), at[:, 1:]
    leaves = expected != found
    turns = np.concatenate([np.zeros_like(at[:, :1]), np.cumsum(leaves, axis=1)], axis=1)
    first = np.argsort(~leaves, axis=1, kind="stable")[:, : leaves.sum(axis=1).max(initial=0)]
    return np.take_along_axis(expected, first, axis=1), np.take_along_axis(found, first, axis=1), turns


def moved_power(spectra: Tensor, course: Course, partner: Ints, share: Floats) -> Tensor:
    """Frames stretched and shifted, mixed with others of the same batch -> their power, (B, N, K).

    spectra: complex (R, N, K), each row with its `rate` and `shift` in `course` (R,). Of the first B = len(partner)
    rows, row b is mixed with row `partner[b]` as (1 - share) b + share partner; -1: as it is.
    """
    way = compiled_power if spectra.device.type == "cpu" else batched_power
    return way(spectra, course, partner, share)


def batched_power(spectra: Tensor, course: Course, partner: Ints, share: Floats) -> Tensor:
    """moved_power by operations on whole batches, for GPUs."""
    still = ~course.stretches & (course.shift != 0)
    moved = changed(spectra, still, lambda part, rows: shifted(part, course.shift[rows]))
    path = Path.of(course, spectra.shape[1])
    moved = changed(moved, course.stretches, lambda part, rows: stretched(part, path.take(rows)))
    mates = torch.from_numpy(np.where(partner >= 0, partner, 0)).to(spectra.device)
    parts = column(np.where(partner >= 0, share, 0.0), spectra.real)[:, :, None, None]
    pairs = torch.view_as_real(moved)
    mixed = torch.lerp(pairs[: len(partner)], pairs.index_select(0, mates), parts)
    return power(torch.view_as_complex(mixed))


def compiled_power(spectra: Tensor, course: Course, partner: Ints, share: Floats) -> Tensor:
    """moved_power by kws.audio.kernels, for CPUs."""
    from kws.audio import kernels  # numba takes half a second to import: for those who need it

    found = spectra.real.new_empty(len(partner), *spectra.shape[1:])
    pairs = torch.view_as_real(spectra).flatten(-2).numpy()
    kernels.power(pairs, course.rate, course.shift, partner, share, found.numpy())
    return found


def changed(batch: Tensor, chosen: Flags, change: Callable[[Tensor, Ints], Tensor]) -> Tensor:
    """(B, ...) with `change(part, rows)` in place of the chosen rows; none is touched where none is chosen."""
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        return batch
    if len(rows) == len(chosen):
        return change(batch, rows)
    at = torch.from_numpy(rows).to(batch.device)
    return batch.index_copy(0, at, change(batch.index_select(0, at), rows))


def power(spectrum: Tensor) -> Tensor:
    """Complex -> squared magnitude."""
    # Not abs() ** 2: its square root costs as much as the transform itself (121 against 26 us a clip).
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def shifted(rows: Tensor, shift: Ints) -> Tensor:
    """(B, N, X) -> each clip's frames later by its own number (B,), zeros shifted in."""
    order = np.arange(rows.shape[1]) - shift[:, None]
    inside = (order >= 0) & (order < rows.shape[1])
    picked = rows.flatten(0, 1).index_select(0, _rows(np.where(inside, order, 0), rows.shape[1], rows))
    return (picked * column(inside, rows)).view_as(rows)


def stretched(spectrum: Tensor, path: Path) -> Tensor:
    """Complex (B, N, K) -> the frames on their paths, with their phases."""
    shape, count = spectrum.shape, spectrum.shape[1]
    flat = spectrum.flatten(0, 1) + float(NOTHING)
    size = power(flat).sqrt_()
    low = _rows(path.low, count, flat)
    scale = _between(size.view(shape), path).div_(size.index_select(0, low))
    there = flat.index_select(0, low) * scale
    if path.expected.shape[1]:
        turns = _turned(flat, path, count)
        there *= turns.index_select(0, _rows(path.turns, path.expected.shape[1] + 1, flat))
    return there.view(shape)


def _turned(flat: Tensor, path: Path, count: int) -> Tensor:
    """The unit phasors by which the phase has left the input's after 0, 1, ... E turns, (B (E + 1), K)."""
    turn = _picked(flat, path.expected, count) * _picked(flat, path.found, count).conj()
    turn = turn * power(turn).rsqrt_()
    turns = [torch.ones_like(turn[:, 0])]
    for number in range(path.expected.shape[1]):
        turns.append(turns[-1] * turn[:, number])
    return torch.stack(turns, dim=1).flatten(0, 1)


def _picked(flat: Tensor, frames: Ints, count: int) -> Tensor:
    """Some frames (B, E) of each clip's `count`, out of rows (B N, K), as (B, E, K); 1 behind the last frame."""
    picked = flat.index_select(0, _rows(np.minimum(frames, count - 1), count, flat))
    behind = np.flatnonzero(frames == count)
    if len(behind):
        picked.index_fill_(0, torch.from_numpy(behind).to(flat.device), 1.0)
    return picked.view(*frames.shape, -1)


def _between(size: Tensor, path: Path) -> Tensor:
    """Magnitudes (B, N, K) at the path's places, (B N, K)."""
    flat, count = size.flatten(0, 1), size.shape[1]
    low = flat.index_select(0, _rows(path.low, count, flat)).mul_(column(path.weight_low, flat))
    return low.addcmul_(flat.index_select(0, _rows(path.high, count, flat)), column(path.weight_high, flat))


def _rows(frames: Ints, count: int, like: Tensor) -> Tensor:
    """Frame numbers (B, X) within each clip of `count` frames -> row numbers (B X,) of all clips' frames."""
    rows = frames + np.arange(len(frames))[:, None] * count
    return torch.from_numpy(rows.reshape(-1)).to(like.device)


def column(values: Floats | Flags, like: Tensor) -> Tensor:
    """Numbers (...) as float32 (X, 1) on the device of `like`."""
    return torch.from_numpy(values.astype(np.float32).reshape(-1, 1)).to(like.device)
