"""Playing waves, by compiled code and by operations on batches, against plain numpy. (Frames: test_frames.py.)"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import torch

from kws.audio import augment, kernels
from kws.audio.codec import Pcm
from tests.audio import librosa_chain as reference
from tests.audio.sounds import HEADROOM, SAMPLES, Sounds, batch, course

Play = Callable[..., torch.Tensor]
both_ways = pytest.mark.parametrize(
    "play", [augment.transform_waves_compiled, augment.transform_waves_batched], ids=["compiled", "batched"]
)
# Float32 samples of up to 1, and up to 1.1 after the amplitude: half a last bit, a few times over.
ROUNDING = 3e-7


def by_reference(clip: Pcm, gain: float, by: float | None) -> np.ndarray:
    samples = reference.amplitude(clip.astype(np.float64) / 32768, gain)
    return reference.fixed(samples if by is None else reference.speed(samples, by))


@both_ways
@pytest.mark.parametrize(
    ("gain", "by"), [(0.7, None), (1.1, None), (1.0, -0.2), (1.0, 0.2), (1.0, 1e-4), (0.83, -0.0371), (1.07, 0.1313)]
)
def test_amplitude_speed_and_fixed_length_equal_numpys(sounds: Sounds, play: Play, gain: float, by: float) -> None:
    wave, lengths = batch(sounds.clips)
    step = 1.0 if by is None else 1.0 / (1.0 + by)
    ours = play(wave, lengths, course(len(wave), gain=gain, step=step), SAMPLES)
    assert (ours.shape, ours.dtype) == ((len(wave), SAMPLES), torch.float32)
    for found, clip in zip(ours.numpy(), sounds.clips, strict=True):
        np.testing.assert_allclose(found, by_reference(clip, gain, by), rtol=0, atol=ROUNDING)


@both_ways
@pytest.mark.parametrize(("start", "step"), [(-1600.0, 1.0), (1600.0, 1.0), (-799.95, 1.1), (811.5, 0.9), (0.5, 1.0)])
def test_what_lies_outside_the_clip_is_silence(sounds: Sounds, play: Play, start: float, step: float) -> None:
    wave, lengths = batch(sounds.clips)
    ours = play(wave, lengths, course(len(wave), start=start, step=step), SAMPLES).numpy()
    place = start + np.arange(SAMPLES) * step
    for found, clip in zip(ours, sounds.clips, strict=True):
        kept = clip[:HEADROOM].astype(np.float64) / 32768
        wanted = np.interp(place, np.arange(len(kept)), kept) * ((place >= 0) & (place < len(kept)))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING)


@both_ways
def test_nothing_drawn_is_the_clip_itself_bit_for_bit(sounds: Sounds, play: Play) -> None:
    wave, lengths = batch(sounds.clips)
    assert torch.equal(play(wave, lengths, course(len(wave)), SAMPLES), wave[:, :SAMPLES] / 32768)


@both_ways
def test_what_lies_behind_a_shorter_clip_is_never_heard(play: Play) -> None:
    wave, lengths = torch.full((3, 100), 30000, dtype=torch.int16), np.array([0, 1, 60])
    for start, step in ((0.0, 1.0), (0.0, 0.5), (0.0, 1.5), (-3.0, 0.7)):
        heard = play(wave, lengths, course(3, start=start, step=step), 200).ne(0).sum(dim=1).numpy()
        place = start + np.arange(200) * step
        assert heard.tolist() == [((place >= 0) & (place < length)).sum() for length in lengths]


@both_ways
def test_integers_and_floats_are_the_same_sound(sounds: Sounds, play: Play) -> None:
    wave, lengths = batch(sounds.clips)
    way = course(len(wave), gain=0.9, start=-20.0, step=1.07)
    assert torch.equal(play(wave, lengths, way, SAMPLES), play(wave.float() / 32768, lengths, way, SAMPLES))


@both_ways
def test_every_clip_goes_its_own_way(sounds: Sounds, play: Play) -> None:
    wave, lengths = batch(sounds.clips[:4])
    ways = [course(1, gain=0.7 + 0.1 * n, start=-40.0 * n, step=1.0 + 0.05 * n) for n in range(4)]
    apart = [play(wave[n : n + 1], lengths[n : n + 1], ways[n], SAMPLES) for n in range(4)]
    together = play(wave, lengths, functools.reduce(type(ways[0]).concatenate, ways), SAMPLES)
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=0)


def test_without_a_folder_for_compiled_code_it_is_compiled_at_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def njit(**options: Any) -> Callable[[Any], Any]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert kernels._compiled(len)("four") == 4
    assert [options.get("cache", False) for options in asked] == [True, False]
    assert all(options["nogil"] for options in asked)
