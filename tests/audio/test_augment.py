import dataclasses

import numpy as np
import pytest
import torch

from kws.audio.augment import Augment
from kws.config import FrontEndConfig

SAMPLES = 4000
CPU = torch.device("cpu")
STILL = FrontEndConfig(shift_ms=0.0, speed=0.0, gain_db=0.0, noise_probability=0.0)
HISS = (np.random.default_rng(1).standard_normal(3 * SAMPLES) * 2000).astype(np.int16)
HUM = (np.sin(np.arange(SAMPLES + 7) / 9) * 9000).astype(np.int16)


def augment(settings: FrontEndConfig, seed: int = 0, noises: tuple[np.ndarray, ...] = ()) -> Augment:
    return Augment(settings, seed, noises, SAMPLES, CPU)


def clips(count: int) -> torch.Tensor:
    """Noise-like float (count, SAMPLES) at a level of its own each."""
    numbers = np.random.default_rng(5)
    wave = numbers.standard_normal((count, SAMPLES)) * numbers.uniform(0.01, 0.2, (count, 1))
    return torch.from_numpy(wave.astype(np.float32))


def varied(wave: torch.Tensor, draws: np.ndarray, epoch: int = 0, seed: int = 0) -> torch.Tensor:
    """Through all the steps, the clips being their own features (40 bands of 100 frames) for the masks."""
    steps = augment(FrontEndConfig(), seed, (HISS, HUM))
    return steps.mask(steps.wave(wave, draws, epoch).view(-1, 1, 40, 100), draws, epoch)


def test_the_same_draws_give_the_same_whatever_the_batch_and_order() -> None:
    wave, draws = clips(12), np.arange(100, 112)
    whole = varied(wave, draws)
    order = np.random.default_rng(0).permutation(12)
    torch.testing.assert_close(varied(wave[order], draws[order]), whole[order], atol=1e-6, rtol=1e-6)
    parts = [varied(wave[at : at + size], draws[at : at + size]) for at, size in ((0, 1), (1, 4), (5, 7))]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-6, rtol=1e-6)
    assert torch.equal(varied(wave, draws), whole)


def test_the_global_generators_neither_matter_nor_move() -> None:
    wave, draws = clips(2), np.arange(2)
    torch.manual_seed(1)
    one, state = varied(wave, draws), torch.get_rng_state()
    varied(wave, draws)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(varied(wave, draws), one)


def test_another_draw_epoch_or_seed_gives_another_result() -> None:
    wave = clips(1).expand(2, SAMPLES)
    one = varied(wave, np.array([3, 4]))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(varied(wave, np.array([3, 4]), epoch=1)[0], one[0])
    assert not torch.equal(varied(wave, np.array([3, 4]), seed=1)[0], one[0])


@pytest.mark.parametrize(
    "only",
    [{"shift_ms": 100.0}, {"speed": 0.1}, {"gain_db": 6.0}, {"noise_probability": 1.0, "noise_snr_db": (0.0, 0.0)}],
    ids=lambda only: next(iter(only)),
)
def test_every_step_by_itself_hangs_on_draw_epoch_and_seed(only: dict[str, object]) -> None:
    settings, wave = dataclasses.replace(STILL, **only), clips(1)

    def result(seed: int, epoch: int, draw: int) -> torch.Tensor:
        return augment(settings, seed, (HISS,)).wave(wave, np.array([draw]), epoch)

    assert not any(torch.equal(result(0, 0, 0), result(*other)) for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def test_the_masks_hang_on_draw_epoch_and_seed() -> None:
    features = clips(3).view(3, 1, 40, 100)

    def result(seed: int, epoch: int, draw: int) -> torch.Tensor:
        return augment(FrontEndConfig(), seed).mask(features, np.arange(draw, draw + 3), epoch)

    assert not any(torch.equal(result(0, 0, 0), result(*other)) for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


def test_all_at_zero_is_the_clip_itself() -> None:
    wave = clips(3)
    assert torch.equal(augment(STILL, noises=(HISS,)).wave(wave, np.arange(3), 0), wave)


# --- shift, speed, gain ---------------------------------------------------------------------------------------


def test_a_shift_moves_the_clip_and_lets_zeros_in() -> None:
    settings = dataclasses.replace(STILL, shift_ms=100.0)
    ramp = torch.arange(1, SAMPLES + 1, dtype=torch.float32).expand(50, SAMPLES)
    moved = augment(settings).wave(ramp, np.arange(50), 0)
    shifts = []
    for row in moved.numpy().astype(np.float64):
        shift = float(np.median((np.arange(SAMPLES) + 1 - row)[row > 0]))
        source = np.arange(SAMPLES) - shift
        inside = np.flatnonzero((source >= 0) & (source <= SAMPLES - 1))
        assert not row[(source < -1) | (source > SAMPLES)].any()
        np.testing.assert_allclose(row[inside], inside + 1 - shift, atol=2e-2)
        shifts.append(shift)
    assert max(map(abs, shifts)) <= 1600
    assert min(shifts) < -1000
    assert max(shifts) > 1000


def test_a_shift_past_the_end_leaves_silence() -> None:
    settings = dataclasses.replace(STILL, shift_ms=1e6)
    assert not augment(settings).wave(torch.ones(1, SAMPLES), np.array([7]), 0).any()


def test_speed_is_linear_interpolation_about_the_middle() -> None:
    settings = dataclasses.replace(STILL, speed=0.2)
    wave, rates = clips(20), []
    played = augment(settings).wave(wave, np.arange(20), 0).numpy()
    place, middle = np.arange(SAMPLES), (SAMPLES - 1) / 2
    # The rate is read off a ramp that goes through the same draws.
    ramp = augment(settings).wave(torch.arange(SAMPLES).float().expand(20, SAMPLES), np.arange(20), 0).numpy()
    for row in range(20):
        rate = (ramp[row, 2400].astype(np.float64) - ramp[row, 1600]) / 800
        source = (place - middle) * rate + middle
        wanted = np.interp(source, place, wave[row].numpy(), left=0.0, right=0.0)
        inside = (source >= 0) & (source <= SAMPLES - 1)
        assert np.abs(played[row] - wanted)[inside].max() < 5e-3
        assert not played[row][(source < -1) | (source > SAMPLES)].any()
        rates.append(rate)
    assert 0.8 <= min(rates) < 0.9
    assert 1.1 < max(rates) <= 1.2


def test_gain_is_one_factor_a_clip_within_its_limits() -> None:
    settings = dataclasses.replace(STILL, gain_db=6.0)
    wave = clips(40)
    ratio = augment(settings).wave(wave, np.arange(40), 0) / wave
    decibels = 20 * ratio.mean(dim=1).log10()
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=1e-5, rtol=1e-5)
    assert -6.0 <= decibels.min() < -4
    assert 4 < decibels.max() <= 6.0


# --- noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_ratio_asked_for(snr: float) -> None:
    settings = dataclasses.replace(STILL, noise_probability=1.0, noise_snr_db=(snr, snr))
    wave = clips(16)
    added = augment(settings, noises=(HISS, HUM)).wave(wave, np.arange(16), 0) - wave
    ratio = 10 * (wave.square().mean(dim=1) / added.square().mean(dim=1)).log10()
    torch.testing.assert_close(ratio, torch.full((16,), snr), atol=0.05, rtol=0)


def test_noise_is_a_window_of_one_recording() -> None:
    settings = dataclasses.replace(STILL, noise_probability=1.0, noise_snr_db=(0.0, 0.0))
    wave = clips(30)
    added = (augment(settings, noises=(HISS, HUM)).wave(wave, np.arange(30), 0) - wave).numpy()
    windows = [np.lib.stride_tricks.sliding_window_view(noise.astype(np.float32), SAMPLES) for noise in (HISS, HUM)]
    starts = set()
    for row in added:
        likeness = [np.abs(each @ row) / np.linalg.norm(each, axis=1) / np.linalg.norm(row) for each in windows]
        assert max(each.max() for each in likeness) > 0.9999
        starts.add(int(likeness[0].argmax()))
    assert len(starts) > 15


def test_noise_comes_as_often_as_asked() -> None:
    settings = dataclasses.replace(STILL, noise_probability=0.3)
    wave = clips(1).expand(2000, SAMPLES)[:, :SAMPLES]
    noisy = augment(settings, noises=(HISS,)).wave(wave, np.arange(2000), 0).ne(wave).any(dim=1)
    assert abs(noisy.float().mean() - 0.3) < 0.04


@pytest.mark.parametrize("noises", [(), (HISS[: SAMPLES - 1],)])
def test_without_a_long_enough_noise_there_is_none(noises: tuple[np.ndarray, ...]) -> None:
    settings, wave = dataclasses.replace(STILL, noise_probability=1.0), clips(2)
    assert torch.equal(augment(settings, noises=noises).wave(wave, np.arange(2), 0), wave)


def test_a_noise_as_long_as_a_clip_is_one_window() -> None:
    settings, wave = dataclasses.replace(STILL, noise_probability=1.0), clips(8)
    assert augment(settings, noises=(HISS[:SAMPLES],)).wave(wave, np.arange(8), 0).isfinite().all()


@pytest.mark.parametrize("noise", [HISS, np.zeros_like(HISS)])
def test_silence_stays_finite_and_near_silent(noise: np.ndarray) -> None:
    settings = FrontEndConfig(noise_probability=1.0)
    found = augment(settings, noises=(noise,)).wave(torch.zeros(4, SAMPLES), np.arange(4), 0)
    assert found.isfinite().all()
    assert found.abs().max() < 1e-3


# --- masks ----------------------------------------------------------------------------------------------------


def masked(settings: FrontEndConfig, count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Features without a value that is their mean, and which places were masked, both (count, 40, 101)."""
    features = torch.from_numpy(np.random.default_rng(2).standard_normal((count, 1, 40, 101)).astype(np.float32))
    found = augment(settings).mask(features, np.arange(count), 0)
    hidden = found != features
    filler = features.mean(dim=(2, 3), keepdim=True).expand_as(features)
    assert torch.equal(found[hidden], filler[hidden])
    return features[:, 0], hidden[:, 0]


def test_one_frame_mask_is_one_stretch_over_all_bands_within_its_limit() -> None:
    _, hidden = masked(dataclasses.replace(STILL, time_masks=1, time_mask_frames=20, band_masks=0))
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))
    widths = []
    for row in hidden[:, 0].numpy():
        places = np.flatnonzero(row)
        widths.append(len(places))
        assert len(places) == 0 or places[-1] - places[0] + 1 == len(places)
    assert min(widths) <= 3
    assert 17 <= max(widths) <= 20


def test_band_masks_reach_over_all_frames_within_their_limits() -> None:
    _, hidden = masked(dataclasses.replace(STILL, time_masks=0, band_masks=2, band_mask_bands=6))
    assert torch.equal(hidden, hidden[:, :, :1].expand_as(hidden))
    assert 6 < hidden[:, :, 0].sum(dim=1).max() <= 12


def test_a_mask_wider_than_the_features_is_cut_to_them() -> None:
    _, hidden = masked(dataclasses.replace(STILL, time_masks=1, time_mask_frames=10_000, band_masks=0))
    assert hidden[:, 0].sum(dim=1).max() <= 101


@pytest.mark.parametrize("zero", [{"time_masks": 0, "band_masks": 0}, {"time_mask_frames": 0, "band_mask_bands": 0}])
def test_no_masks_leave_the_features_as_they_are(zero: dict[str, int]) -> None:
    _, hidden = masked(dataclasses.replace(STILL, **zero), 4)
    assert not hidden.any()
