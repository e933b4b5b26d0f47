"""Time stretch and frame shift of spectrograms, by row operations on batches.

    complex (B, N, K) -> phase vocoder at each clip's own rate -> shift by whole frames -> (B, N, K)

The phase vocoder reads output frame k at position k * rate of the input. Its magnitude is interpolated between the two
input frames around that position; its phase advances from the output frame before by the phase difference of those two
input frames. The accumulated phase (modulo 2 pi) is a running product of unit phasors, so no angle is computed. Where
the position advances by exactly one frame, the product is that input frame's own phase. Only where an input frame is
repeated or skipped the phase has to be corrected, which needs a multiplication; everything else is a selection of rows.
The result equals librosa's `phase_vocoder`.

Sources: Flanagan and Golden, "Phase vocoder", Bell System Technical Journal, 1966; with interpolated magnitudes: Ellis,
"A phase vocoder in Matlab", 2002.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws.audio.augment_parameters import PHASE_EPSILON, Flags, Floats, Ints, TransformParameters


@dataclasses.dataclass(frozen=True)
class FrameMap:
    """Which input frames each output frame is computed from; (B, N) each but for the last two."""

    left: Ints
    """Input frame at or before the position."""
    right: Ints
    """The input frame after it."""
    weight_left: npt.NDArray[np.float64]
    weight_right: npt.NDArray[np.float64]
    """Weights of their magnitudes; both 0 where the shift leaves silence."""
    num_corrections: Ints
    """How many phase corrections apply to this output frame."""
    expected: Ints
    """For each correction, the frame right after the one used before, (B, E). Entries after a clip's last correction
    are not used."""
    actual: Ints
    """The frame that was used instead, (B, E)."""

    @classmethod
    def from_transforms(cls, transforms: TransformParameters, frames: int) -> FrameMap:
        """The map of each clip (B,) for spectrograms of N frames."""
        rate, output = transforms.rate[:, None], np.arange(frames)
        steps = np.ceil(frames / rate).astype(np.int64)  # number of output frames, as in np.arange(0, N, rate)
        steps -= ((steps - 1) * rate).astype(np.int64) >= frames  # where the quotient was rounded up
        order = output - transforms.shift[:, None]
        inside = (order >= 0) & (order < steps) & (output < steps)
        order = np.where(inside, order, 0)
        position = order * rate
        left = position.astype(np.int64)
        fraction = position - left
        has_right = left + 1 < frames  # after the last frame comes silence
        expected, actual, num_corrections = _phase_corrections(rate, int(steps.max(initial=1)), frames)
        return cls(
            left, np.where(has_right, left + 1, left), np.where(inside, 1.0 - fraction, 0.0),
            np.where(inside & has_right, fraction, 0.0), np.take_along_axis(num_corrections, order, axis=1),
            expected, actual,
        )  # fmt: skip

    def select(self, rows: Ints) -> FrameMap:
        """The maps of these rows of the batch."""
        corrections = self.num_corrections[rows]
        most = int(corrections.max(initial=0))
        ends = (self.expected[rows, :most], self.actual[rows, :most])
        return FrameMap(
            self.left[rows], self.right[rows], self.weight_left[rows], self.weight_right[rows], corrections, *ends
        )


def _phase_corrections(rate: npt.NDArray[np.float64], steps: int, frames: int) -> tuple[Ints, Ints, Ints]:
    """Where the phase has to be corrected, at rates (B, 1).

    Returns the expected and the actual input frame of each correction, (B, E) each, and the number of corrections up to
    each output frame, (B, steps).
    """
    at = np.minimum((np.arange(steps) * rate).astype(np.int64), frames - 1)
    expected, actual = np.minimum(at[:, :-1] + 1, frames), at[:, 1:]
    corrected = expected != actual
    numbers = np.concatenate([np.zeros_like(at[:, :1]), np.cumsum(corrected, axis=1)], axis=1)
    first = np.argsort(~corrected, axis=1, kind="stable")[:, : corrected.sum(axis=1).max(initial=0)]
    return np.take_along_axis(expected, first, axis=1), np.take_along_axis(actual, first, axis=1), numbers


def transformed_power(spectra: Tensor, transforms: TransformParameters, partner: Ints, share: Floats) -> Tensor:
    """Power (B, N, K) of frames that were stretched, shifted and mixed with other rows of the same batch.

    spectra: complex (R, N, K); each row has its own `rate` and `shift` in `transforms` (R,). The first
    B = len(partner) rows are returned: row b mixed with row `partner[b]` as (1 - share[b]) row + share[b] partner, or
    unmixed where `partner[b]` is -1.
    """
    implementation = transformed_power_compiled if spectra.device.type == "cpu" else transformed_power_batched
    return implementation(spectra, transforms, partner, share)


def transformed_power_batched(spectra: Tensor, transforms: TransformParameters, partner: Ints, share: Floats) -> Tensor:
    """transformed_power for GPUs, by tensor operations."""
    only_shifted = ~transforms.is_stretched & (transforms.shift != 0)
    moved = apply_to_rows(spectra, only_shifted, lambda part, rows: shift_frames(part, transforms.shift[rows]))
    frame_map = FrameMap.from_transforms(transforms, spectra.shape[1])
    moved = apply_to_rows(
        moved, transforms.is_stretched, lambda part, rows: stretch_frames(part, frame_map.select(rows))
    )
    partners = torch.from_numpy(np.where(partner >= 0, partner, 0)).to(spectra.device)
    shares = as_column(np.where(partner >= 0, share, 0.0), spectra.real)[:, :, None, None]
    pairs = torch.view_as_real(moved)
    mixed = torch.lerp(pairs[: len(partner)], pairs.index_select(0, partners), shares)
    return power(torch.view_as_complex(mixed))


def transformed_power_compiled(
    spectra: Tensor, transforms: TransformParameters, partner: Ints, share: Floats
) -> Tensor:
    """transformed_power for CPUs, by kws.audio.kernels."""
    from kws.audio import kernels  # importing numba takes half a second: only where it is needed

    out = spectra.real.new_empty(len(partner), *spectra.shape[1:])
    pairs = torch.view_as_real(spectra).flatten(-2).numpy()
    kernels.transformed_power(pairs, transforms.rate, transforms.shift, partner, share, out.numpy())
    return out


def apply_to_rows(batch: Tensor, applied: Flags, function: Callable[[Tensor, Ints], Tensor]) -> Tensor:
    """Replaces the rows of (B, ...) where `applied` (B,) by `function(part, rows)`; returns `batch` where none is."""
    rows = np.flatnonzero(applied)
    if len(rows) == 0:
        return batch
    if len(rows) == len(applied):
        return function(batch, rows)
    at = torch.from_numpy(rows).to(batch.device)
    return batch.index_copy(0, at, function(batch.index_select(0, at), rows))


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitude of complex numbers."""
    # Not abs() ** 2: its square root costs as much as the transform itself (121 against 26 us a clip).
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def shift_frames(rows: Tensor, shift: Ints) -> Tensor:
    """(B, N, X) with each clip's frames moved later by its own number (B,); the gap is zeros."""
    order = np.arange(rows.shape[1]) - shift[:, None]
    inside = (order >= 0) & (order < rows.shape[1])
    moved = rows.flatten(0, 1).index_select(0, _flat_rows(np.where(inside, order, 0), rows.shape[1], rows))
    return (moved * as_column(inside, rows)).view_as(rows)


def stretch_frames(spectrum: Tensor, frame_map: FrameMap) -> Tensor:
    """Phase vocoder and shift: complex (B, N, K) -> (B, N, K)."""
    shape, count = spectrum.shape, spectrum.shape[1]
    flat = spectrum.flatten(0, 1) + float(PHASE_EPSILON)
    magnitude = power(flat).sqrt_()
    left = _flat_rows(frame_map.left, count, flat)
    scale = _interpolated(magnitude.view(shape), frame_map).div_(magnitude.index_select(0, left))
    stretched = flat.index_select(0, left) * scale
    corrections = frame_map.expected.shape[1]
    if corrections:
        phasors = _correction_phasors(flat, frame_map, count)
        stretched *= phasors.index_select(0, _flat_rows(frame_map.num_corrections, corrections + 1, flat))
    return stretched.view(shape)


def _correction_phasors(flat: Tensor, frame_map: FrameMap, count: int) -> Tensor:
    """Unit phasors of the phase correction after 0, 1, ... E corrections, (B (E + 1), K)."""
    step = _select_frames(flat, frame_map.expected, count) * _select_frames(flat, frame_map.actual, count).conj()
    step = step * power(step).rsqrt_()
    phasors = [torch.ones_like(step[:, 0])]
    for number in range(frame_map.expected.shape[1]):
        phasors.append(phasors[-1] * step[:, number])
    return torch.stack(phasors, dim=1).flatten(0, 1)


def _select_frames(flat: Tensor, frames: Ints, count: int) -> Tensor:
    """Frames (B, E) of clips of `count` frames, from rows (B N, K), as (B, E, K); 1 for a frame after the last."""
    selected = flat.index_select(0, _flat_rows(np.minimum(frames, count - 1), count, flat))
    beyond = np.flatnonzero(frames == count)
    if len(beyond):
        selected.index_fill_(0, torch.from_numpy(beyond).to(flat.device), 1.0)
    return selected.view(*frames.shape, -1)


def _interpolated(magnitude: Tensor, frame_map: FrameMap) -> Tensor:
    """Magnitudes (B, N, K) interpolated at the map's positions, (B N, K)."""
    flat, count = magnitude.flatten(0, 1), magnitude.shape[1]
    left = flat.index_select(0, _flat_rows(frame_map.left, count, flat)).mul_(as_column(frame_map.weight_left, flat))
    right = flat.index_select(0, _flat_rows(frame_map.right, count, flat))
    return left.addcmul_(right, as_column(frame_map.weight_right, flat))


def _flat_rows(frames: Ints, count: int, like: Tensor) -> Tensor:
    """Frame numbers (B, X) within each clip of `count` frames -> row numbers (B X,) among all clips' frames."""
    rows = frames + np.arange(len(frames))[:, None] * count
    return torch.from_numpy(rows.reshape(-1)).to(like.device)


def as_column(values: Floats | Flags, like: Tensor) -> Tensor:
    """Numbers (...) as float32 (X, 1) on the device of `like`."""
    return torch.from_numpy(values.astype(np.float32).reshape(-1, 1)).to(like.device)
