"""Gain, speed and shift of waves, by both implementations, against plain numpy. (Frames: test_frames.py.)"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import torch

from kws.audio import kernels
from kws.audio.augment_parameters import Ints, TransformParameters
from kws.audio.codec import Pcm
from kws.audio.waves import BatchedWaveTransform, CompiledWaveTransform
from tests.audio import librosa_chain as reference
from tests.audio.sounds import HEADROOM, SAMPLES, Sounds, batch, transforms

Transform = Callable[..., torch.Tensor]
both_implementations = pytest.mark.parametrize(
    "transform", [CompiledWaveTransform, BatchedWaveTransform], ids=["compiled", "batched"], indirect=True
)
# A few times half the last bit of float32 samples of up to 1.1.
ROUNDING = 3e-7


@pytest.fixture
def transform(request: pytest.FixtureRequest) -> Transform:
    """One implementation as a function of waves, lengths, parameters and the number of samples."""

    def transformed(wave: torch.Tensor, lengths: Ints, parameters: TransformParameters, samples: int) -> torch.Tensor:
        found: torch.Tensor = request.param.from_parameters(parameters, lengths).apply(wave, samples)
        return found

    return transformed


def by_reference(clip: Pcm, gain: float, by: float | None) -> np.ndarray:
    samples = reference.amplitude(clip.astype(np.float64) / 32768, gain)
    return reference.fixed(samples if by is None else reference.speed(samples, by))


@both_implementations
@pytest.mark.parametrize(
    ("gain", "by"), [(0.7, None), (1.1, None), (1.0, -0.2), (1.0, 0.2), (1.0, 1e-4), (0.83, -0.0371), (1.07, 0.1313)]
)
def test_gain_speed_and_fixed_length_equal_numpys(sounds: Sounds, transform: Transform, gain: float, by: float) -> None:
    wave, lengths = batch(sounds.clips)
    step = 1.0 if by is None else 1.0 / (1.0 + by)
    ours = transform(wave, lengths, transforms(len(wave), gain=gain, step=step), SAMPLES)
    assert (ours.shape, ours.dtype) == ((len(wave), SAMPLES), torch.float32)
    for found, clip in zip(ours.numpy(), sounds.clips, strict=True):
        np.testing.assert_allclose(found, by_reference(clip, gain, by), rtol=0, atol=ROUNDING)


@both_implementations
@pytest.mark.parametrize(("start", "step"), [(-1600.0, 1.0), (1600.0, 1.0), (-799.95, 1.1), (811.5, 0.9), (0.5, 1.0)])
def test_outside_the_clip_is_silence(sounds: Sounds, transform: Transform, start: float, step: float) -> None:
    wave, lengths = batch(sounds.clips)
    ours = transform(wave, lengths, transforms(len(wave), start=start, step=step), SAMPLES).numpy()
    place = start + np.arange(SAMPLES) * step
    for found, clip in zip(ours, sounds.clips, strict=True):
        kept = clip[:HEADROOM].astype(np.float64) / 32768
        wanted = np.interp(place, np.arange(len(kept)), kept) * ((place >= 0) & (place < len(kept)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING)


@both_implementations
def test_without_any_step_it_is_the_clip_bit_for_bit(sounds: Sounds, transform: Transform) -> None:
    wave, lengths = batch(sounds.clips)
    assert torch.equal(transform(wave, lengths, transforms(len(wave)), SAMPLES), wave[:, :SAMPLES] / 32768)


@both_implementations
def test_samples_after_the_end_of_a_shorter_clip_are_ignored(transform: Transform) -> None:
    wave, lengths = torch.full((3, 100), 30000, dtype=torch.int16), np.array([0, 1, 60])
    for start, step in ((0.0, 1.0), (0.0, 0.5), (0.0, 1.5), (-3.0, 0.7)):
        nonzero = transform(wave, lengths, transforms(3, start=start, step=step), 200).ne(0).sum(dim=1).numpy()
        place = start + np.arange(200) * step
        assert nonzero.tolist() == [((place >= 0) & (place < length)).sum() for length in lengths]


@both_implementations
def test_int16_and_float_give_the_same(sounds: Sounds, transform: Transform) -> None:
    wave, lengths = batch(sounds.clips)
    parameters = transforms(len(wave), gain=0.9, start=-20.0, step=1.07)
    assert torch.equal(
        transform(wave, lengths, parameters, SAMPLES), transform(wave.float() / 32768, lengths, parameters, SAMPLES)
    )


@both_implementations
def test_every_clip_has_its_own_parameters(sounds: Sounds, transform: Transform) -> None:
    wave, lengths = batch(sounds.clips[:4])
    parts = [transforms(1, gain=0.7 + 0.1 * n, start=-40.0 * n, step=1.0 + 0.05 * n) for n in range(4)]
    apart = [transform(wave[n : n + 1], lengths[n : n + 1], parts[n], SAMPLES) for n in range(4)]
    together = transform(wave, lengths, functools.reduce(type(parts[0]).concatenate, parts), SAMPLES)
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=0)


def test_without_a_writable_cache_functions_are_compiled_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def njit(**options: Any) -> Callable[[Any], Any]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert kernels.compiled(len)("four") == 4
    assert [options.get("cache", False) for options in asked] == [True, False]
    assert all(options["nogil"] for options in asked)


def test_power_without_a_change_has_the_bits_of_the_transformed_one() -> None:
    generator = torch.Generator().manual_seed(3)
    spectra = torch.fft.rfft(torch.randn(3, 5, 64, generator=generator)) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    pairs = torch.view_as_real(spectra).flatten(-2).numpy()
    plain, transformed = (np.full((3, 5, 33), np.nan, np.float32) for _ in range(2))
    kernels.power(pairs, plain)
    unmixed = np.full(3, -1)
    kernels.transformed_power(pairs, np.ones(3), np.zeros(3, np.int64), unmixed, np.zeros(3), transformed)
    np.testing.assert_array_equal(plain, transformed)
