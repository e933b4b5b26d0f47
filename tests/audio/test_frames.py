"""Time stretch, frame shift and mixing, by both implementations, against librosa and numpy."""

from __future__ import annotations

import functools
from collections.abc import Callable

import librosa
import numpy as np
import pytest
import torch

from kws.audio.augment_parameters import Floats, Ints, TransformParameters
from kws.audio.features import Features
from kws.audio.frames import BatchedFrameSteps, CompiledFrameSteps, FrameSteps
from tests.audio import librosa_chain as reference
from tests.audio.sounds import SAMPLES, Sounds, batch, transforms

Power = Callable[..., torch.Tensor]
both_implementations = pytest.mark.parametrize(
    "power", [CompiledFrameSteps, BatchedFrameSteps], ids=["compiled", "batched"], indirect=True
)
NO_PARTNER = -1
DECIBELS = 1e-3
"""Largest difference allowed to the reference, in dB."""


def transformed_power(
    steps: type[FrameSteps], spectra: torch.Tensor, transforms: TransformParameters, partner: Ints, share: Floats
) -> torch.Tensor:
    """Power of the spectra by one implementation."""
    return steps.from_parameters(transforms, partner, share, spectra.shape[1]).power(spectra)


@pytest.fixture
def power(request: pytest.FixtureRequest) -> Power:
    """One implementation as a function of spectra, transforms, partners and shares."""
    return functools.partial(transformed_power, request.param)


def slow(*values: object) -> list[object]:
    """Parameters that only the full run tests."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow) for value in values
    ]


def spectra_of(sounds: Sounds, features: Features, count: int) -> torch.Tensor:
    """Spectra of the first clips, complex (B, N, K)."""
    return features.spectrum(batch(sounds.clips[:count], SAMPLES)[0].float() / 32768)


def difference(features: Features, power: torch.Tensor, wanted: list[np.ndarray]) -> float:
    """Largest difference between mel features of our power and of the reference's spectra (K, N), in dB."""
    ours = features.scaled(features.mel_of_power(power))[:, 0].numpy()
    theirs = np.stack([reference.mel(spectrum, features.spec.bands) for spectrum in wanted])
    return float(np.abs(ours - theirs).max())


def moved_by(spectrum: torch.Tensor, by: float | None = None, shift: int | None = None) -> np.ndarray:
    """The reference's steps 5 to 7: (N, K) -> (K, N)."""
    # In complex128, because librosa accumulates the angles of a complex64 spectrum in float32: an error of 3e-3 dB
    # after mixing. From our own spectrum, because float32 leaves the phases of weak bins uncertain: a mix with a
    # stretched clip changes by up to 3e-3 dB in any implementation (test_augment.py compares the whole chain).
    moved = spectrum.numpy().T.astype(np.complex128)
    moved = moved if by is None else reference.stretch(moved, by)
    moved = moved if shift is None else reference.shift(moved, shift)
    return reference.fixed_frames(moved, len(spectrum))


def unmixed(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Partner and share of clips that are not mixed."""
    return np.full(count, NO_PARTNER), np.zeros(count)


def test_the_spectrum_equals_librosas(sounds: Sounds) -> None:
    clips = sounds.clips[:20]
    for ours, clip in zip(spectra_of(sounds, Features("mel32"), 20), clips, strict=True):
        theirs = reference.stft(reference.fixed(clip / 32768)).T
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


@both_implementations
@pytest.mark.parametrize("by", [-0.2, 0.13, *slow(-0.5, -0.1371, -1e-9, 1e-3, 0.0667, 0.2, 0.5)])
def test_the_stretch_equals_librosas_phase_vocoder(sounds: Sounds, power: Power, by: float) -> None:
    features = Features("mel32")
    spectra = spectra_of(sounds, features, 10)
    found = power(spectra, transforms(10, rate=1.0 + by), *unmixed(10))
    assert difference(features, found, [moved_by(spectrum, by) for spectrum in spectra]) < DECIBELS


@both_implementations
@pytest.mark.parametrize("shift", [-8, 5, 40, *slow(-40, -31, -1, 1, 8, 31)])
def test_a_shift_moves_whole_frames_and_leaves_silence(sounds: Sounds, power: Power, shift: int) -> None:
    features = Features("mel32")
    spectra = spectra_of(sounds, features, 6)
    found = power(spectra, transforms(6, shift=shift), *unmixed(6))
    wanted = np.zeros(spectra.shape, np.complex64)
    for frame in range(32):
        if 0 <= frame + shift < 32:
            wanted[:, frame + shift] = spectra[:, frame].numpy()
    np.testing.assert_allclose(found.numpy(), np.abs(wanted) ** 2, rtol=1e-5, atol=1e-12)


@both_implementations
@pytest.mark.parametrize(("by", "shift"), [(-0.2, 8), *slow((-0.2, -8), (0.2, -8), (0.2, 8), (0.13, 3), (-0.07, -5))])
def test_stretch_then_shift_then_cut_to_32_frames(sounds: Sounds, power: Power, by: float, shift: int) -> None:
    features = Features("mel32")
    spectra = spectra_of(sounds, features, 10)
    found = power(spectra, transforms(10, rate=1.0 + by, shift=shift), *unmixed(10))
    assert difference(features, found, [moved_by(spectrum, by, shift) for spectrum in spectra]) < DECIBELS


@both_implementations
@pytest.mark.parametrize("share", [0.45, *slow(0.0, 0.05, 1.0)])
def test_mixing_adds_complex_spectra(sounds: Sounds, power: Power, share: float) -> None:
    features = Features("mel32")
    spectra = spectra_of(sounds, features, 8)
    # The first stretch repeats the last input frame, and the shift moves that into the output.
    steps = [(-0.18, -8), (0.17, 6), (None, 4), (-0.2, 3), (None, None), (-0.031, 8), (0.2, -8), (-0.11, None)]
    moved = [moved_by(spectrum, *step) for spectrum, step in zip(spectra, steps, strict=True)]
    whole = TransformParameters(
        np.ones(8), np.zeros(8), np.ones(8), np.array([1.0 + (by or 0.0) for by, _ in steps]),
        np.array([shift or 0 for _, shift in steps]),
    )  # fmt: skip
    partner = np.array([5, 4, 6, 7, NO_PARTNER])  # of the first five; the last three are only mixed in
    found = power(spectra, whole, partner, np.full(5, share))
    assert found.shape == (5, *spectra.shape[1:])
    wanted = [(1.0 - share) * moved[n] + share * moved[partner[n]] for n in range(4)] + [moved[4]]
    assert difference(features, found, wanted) < DECIBELS


@both_implementations
def test_both_implementations_agree_with_random_parameters(sounds: Sounds, power: Power) -> None:
    spectra = spectra_of(sounds, Features("mel32"), 10)
    rng = np.random.default_rng(4)
    for _ in range(5):
        drawn = rng.integers(0, 2, (2, 10)).astype(bool)
        whole = TransformParameters(
            np.ones(10), np.zeros(10), np.ones(10), np.where(drawn[0], rng.uniform(0.8, 1.2, 10), 1.0),
            np.where(drawn[1], rng.integers(-8, 9, 10), 0),
        )  # fmt: skip
        partner = np.where(rng.random(5) < 0.7, rng.integers(5, 10, 5), NO_PARTNER)
        found = power(spectra, whole, partner, rng.uniform(0, 0.45, 5))
        other = transformed_power(CompiledFrameSteps, spectra, whole, partner, np.zeros(5))
        assert found.isfinite().all()
        assert torch.equal(found[partner < 0], power(spectra, whole, *unmixed(5))[partner < 0])
        torch.testing.assert_close(found[partner < 0], other[partner < 0], rtol=1e-4, atol=1e-9)


@both_implementations
@pytest.mark.parametrize("rate", [101 / 108, *slow(101 / 118, 101 / 124, 101 / 90, 1.0)])
def test_a_rate_that_rounds_to_the_end_reads_nothing_after_it(sounds: Sounds, power: Power, rate: float) -> None:
    # Just below 101 / 108 floating point gives 109 positions, the last of them at frame 101.0.
    features = Features("logmel40")
    spectra = spectra_of(sounds, features, 3)
    below = float(np.nextafter(rate, 0.0))
    found = power(spectra, transforms(3, rate=below, shift=-8), *unmixed(3)).numpy()
    for ours, spectrum in zip(found, spectra.numpy(), strict=True):
        theirs = librosa.phase_vocoder(spectrum.T.astype(np.complex128), rate=below, hop_length=160).T[8:109]
        power_of_theirs = np.zeros(ours.shape)
        power_of_theirs[: len(theirs)] = np.abs(theirs) ** 2
        np.testing.assert_allclose(ours, power_of_theirs, rtol=1e-4, atol=1e-6 * power_of_theirs.max())


@both_implementations
def test_digital_silence_stays_silent(power: Power) -> None:
    spectra = Features("mel32").spectrum(torch.zeros(4, SAMPLES))
    found = power(spectra, transforms(4, rate=1.13, shift=2), np.array([2, NO_PARTNER]), np.array([0.4, 0.0]))
    assert found.isfinite().all()
    assert found.max() < 1e-16


@both_implementations
def test_sound_after_digital_silence_equals_librosas(power: Power) -> None:
    # The sound begins at the end of a frame, which holds a millionth of the energy of the next, and sets the phase.
    clip = np.zeros(SAMPLES, np.int16)
    begin = 10 * 512 + 1022
    clip[begin : begin + 5000] = np.random.default_rng(1).normal(0, 4000, 5000)
    wave, features = torch.from_numpy(clip)[None] / 32768, Features("mel32")
    both = features.spectrum(wave.expand(2, SAMPLES))
    found = power(both, transforms(2, rate=0.87), np.array([1]), np.array([0.3]))
    assert difference(features, found, [moved_by(both[0], -0.13)]) < DECIBELS
