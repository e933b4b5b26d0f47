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
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kws.audio.augment_parameters import PHASE_EPSILON, Flags, Floats, Ints, TransformParameters
from kws.audio.waves import apply_to_rows, row_numbers


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


class FrameSteps(Protocol):
    """Stretch, shift and mixing of the spectrograms of a batch, ready to be applied."""

    @classmethod
    def from_parameters(cls, transforms: TransformParameters, partner: Ints, share: Floats, frames: int) -> Self:
        """For spectra of R rows and N = `frames` frames; each row has its own `rate` and `shift` in `transforms` (R,).

        The result has the first B = len(partner) rows: row b mixed with row `partner[b]` as
        (1 - share[b]) row + share[b] partner, or unmixed where `partner[b]` is -1.
        """

    def power(self, spectra: Tensor) -> Tensor:
        """Complex (R, N, K) -> power of the stretched, shifted and mixed frames, (B, N, K)."""


@dataclasses.dataclass(frozen=True)
class CompiledFrameSteps:
    """FrameSteps by kws.audio.kernels, for CPUs."""

    rate: Tensor
    shift: Tensor
    """(R,) each: float64 and int64."""
    partner: Tensor
    share: Tensor
    """(B,) each: int64 and float64."""
    changes: bool
    """Whether a row is stretched, shifted or mixed."""

    @classmethod
    def from_parameters(cls, transforms: TransformParameters, partner: Ints, share: Floats, frames: int) -> Self:
        """See FrameSteps."""
        changes = bool((transforms.is_stretched | (transforms.shift != 0)).any() or (partner >= 0).any())
        rate, shift = torch.from_numpy(transforms.rate), torch.from_numpy(transforms.shift)
        return cls(rate, shift, torch.from_numpy(partner), torch.from_numpy(share), changes)

    def power(self, spectra: Tensor) -> Tensor:
        """See FrameSteps."""
        from kws.audio import kernels  # importing numba takes half a second: only where it is needed

        out = spectra.real.new_empty(len(self.partner), *spectra.shape[1:])
        pairs = torch.view_as_real(spectra).flatten(-2).numpy()
        if not self.changes:  # the preset `modern` has none of these steps, and they take half a minute to compile
            kernels.power(pairs, out.numpy())
            return out
        rate, shift, partner, share = (values.numpy() for values in (self.rate, self.shift, self.partner, self.share))
        kernels.transformed_power(pairs, rate, shift, partner, share, out.numpy())
        return out


@dataclasses.dataclass(frozen=True)
class BatchedFrameSteps:
    """FrameSteps by tensor operations, for GPUs. A step that applies to no row is None."""

    count: int
    """B."""
    shifted: _Shift | None
    stretched: _Stretch | None
    mixed: _Mix | None

    @classmethod
    def from_parameters(cls, transforms: TransformParameters, partner: Ints, share: Floats, frames: int) -> Self:
        """See FrameSteps."""
        stretched, moved = transforms.is_stretched, transforms.shift != 0
        return cls(
            len(partner), _Shift.from_parameters(transforms, ~stretched & moved, frames),
            _Stretch.from_parameters(transforms, stretched, frames), _Mix.from_parameters(partner, share),
        )  # fmt: skip

    def power(self, spectra: Tensor) -> Tensor:
        """See FrameSteps."""
        moved = spectra
        for step in (self.shifted, self.stretched):
            if step:
                moved = apply_to_rows(moved, step.rows, step.apply)
        own = moved[: self.count]
        return power(self.mixed.apply(own, moved) if self.mixed else own)


@dataclasses.dataclass(frozen=True)
class _Mix:
    """Mixes every row b with row `partner[b]`, at its share: 0 where it is not mixed."""

    partner: Tensor
    """(B,) int64."""
    share: Tensor
    """(B, 1, 1, 1) float32."""

    @classmethod
    def from_parameters(cls, partner: Ints, share: Floats) -> _Mix | None:
        mixed = partner >= 0
        if not mixed.any():
            return None
        shares = np.where(mixed, share, 0.0).astype(np.float32)
        return cls(torch.from_numpy(np.where(mixed, partner, 0)), torch.from_numpy(shares)[:, None, None, None])

    def apply(self, own: Tensor, all_rows: Tensor) -> Tensor:
        """Complex (B, N, K), and the rows (R, N, K) that are mixed in -> (B, N, K)."""
        pairs, others = torch.view_as_real(own), torch.view_as_real(all_rows)
        return torch.view_as_complex(torch.lerp(pairs, others.index_select(0, self.partner), self.share))


@dataclasses.dataclass(frozen=True)
class _Shift:
    """Moves the frames of R rows to a later time, by a number of its own each; the gap is zeros."""

    rows: Tensor | None
    frames: Tensor
    """Row number among all frames of these rows, (R N,) int64."""
    inside: Tensor
    """0 in the gap, else 1, (R N, 1) float32."""

    @classmethod
    def from_parameters(cls, transforms: TransformParameters, applied: Flags, frames: int) -> _Shift | None:
        if not applied.any():
            return None
        order = np.arange(frames) - transforms.shift[applied, None]
        inside = (order >= 0) & (order < frames)
        return cls(row_numbers(applied), _flat_rows(np.where(inside, order, 0), frames), _column(inside))

    def apply(self, spectrum: Tensor) -> Tensor:
        """(R, N, K) -> (R, N, K)."""
        moved = spectrum.flatten(0, 1).index_select(0, self.frames)
        return (moved * self.inside).view_as(spectrum)


@dataclasses.dataclass(frozen=True)
class _Stretch:
    """Phase vocoder and shift of R rows: a FrameMap with row numbers among all frames of these rows."""

    rows: Tensor | None
    left: Tensor
    right: Tensor
    """(R N,) int64 each."""
    weight_left: Tensor
    weight_right: Tensor
    """(R N, 1) float32 each."""
    corrections: _Corrections | None

    @classmethod
    def from_parameters(cls, transforms: TransformParameters, applied: Flags, frames: int) -> _Stretch | None:
        if not applied.any():
            return None
        found = FrameMap.from_transforms(transforms.select(np.flatnonzero(applied)), frames)
        return cls(
            row_numbers(applied), _flat_rows(found.left, frames), _flat_rows(found.right, frames),
            _column(found.weight_left), _column(found.weight_right), _Corrections.from_map(found, frames),
        )  # fmt: skip

    def apply(self, spectrum: Tensor) -> Tensor:
        """Complex (R, N, K) -> (R, N, K)."""
        flat = spectrum.flatten(0, 1) + float(PHASE_EPSILON)
        magnitude = power(flat).sqrt_()
        left = magnitude.index_select(0, self.left)
        scale = left * self.weight_left
        scale.addcmul_(magnitude.index_select(0, self.right), self.weight_right).div_(left)
        stretched = flat.index_select(0, self.left) * scale
        if self.corrections:
            stretched *= self.corrections.phasors(flat)
        return stretched.view_as(spectrum)


@dataclasses.dataclass(frozen=True)
class _Corrections:
    """Phase corrections of R rows, up to E each."""

    number: Tensor
    """Row of `phasors` for each output frame, (R N,) int64."""
    expected: Tensor
    actual: Tensor
    """Row numbers among all frames, (R, E) int64 each."""
    beyond: Tensor | None
    """Places in `expected` (flat) of a frame after the last one; None where there is none."""

    @classmethod
    def from_map(cls, found: FrameMap, frames: int) -> _Corrections | None:
        count = int(found.num_corrections.max(initial=0))
        if count == 0:
            return None
        ends = found.expected[:, :count], found.actual[:, :count]
        expected, actual = (_flat_rows(np.minimum(end, frames - 1), frames).view(-1, count) for end in ends)
        beyond = np.flatnonzero(ends[0] == frames)
        return cls(
            _flat_rows(found.num_corrections, count + 1), expected, actual,
            torch.from_numpy(beyond) if len(beyond) else None,
        )  # fmt: skip

    def phasors(self, flat: Tensor) -> Tensor:
        """Unit phasors that correct the phase of each output frame: frames (R N, K) -> (R N, K)."""
        before = flat.index_select(0, self.expected.flatten())
        if self.beyond is not None:
            before.index_fill_(0, self.beyond, 1.0)
        step = before * flat.index_select(0, self.actual.flatten()).conj()
        step = (step * power(step).rsqrt_()).view(*self.expected.shape, -1)
        product = [torch.ones_like(step[:, 0])]
        for number in range(step.shape[1]):
            product.append(product[-1] * step[:, number])
        return torch.stack(product, dim=1).flatten(0, 1).index_select(0, self.number)


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitude of complex numbers."""
    # Not abs() ** 2: its square root costs as much as the transform itself (121 against 26 us a clip).
    return torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)


def _flat_rows(frames: Ints, count: int) -> Tensor:
    """Frame numbers (R, X) within each row of `count` frames -> row numbers (R X,) among the frames of all rows."""
    rows = frames + np.arange(len(frames))[:, None] * count
    return torch.from_numpy(rows.reshape(-1))


def _column(values: Floats | Flags) -> Tensor:
    """Numbers (...) as float32 (X, 1)."""
    return torch.from_numpy(values.astype(np.float32).reshape(-1, 1))
