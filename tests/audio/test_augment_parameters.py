"""Augmentation parameters: probabilities and ranges, and that they depend on seed, epoch, draw and step only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from kws import counter_rng
from kws.audio.augment_parameters import AugmentationSampler, TransformParameters
from kws.config import PRESETS, FrontEndConfig, preset

SAMPLES, COUNT = 16000, 2000
DRAWS = np.arange(COUNT)
CLASSIC = preset("classic")
ALL = preset(
    "modern", **{f"{step}_probability": 0.5 for step in ("amplitude", "stretch", "frame_shift", "mix")}
)  # every step at once
NUM_ROOMS = 64


def sampler_for(settings: FrontEndConfig, seed: int = 0) -> AugmentationSampler:
    return AugmentationSampler(settings, seed, SAMPLES)


Draw = Callable[[AugmentationSampler, np.ndarray, int], np.ndarray]
STEPS: dict[str, Draw] = {
    "amplitude": lambda sampler, draws, epoch: sampler.clip_transforms(draws, epoch).gain,
    "volume": lambda sampler, draws, epoch: sampler.clip_transforms(draws, epoch).gain,
    "speed": lambda sampler, draws, epoch: sampler.clip_transforms(draws, epoch).step,
    "shift": lambda sampler, draws, epoch: sampler.clip_transforms(draws, epoch).start,
    "stretch": lambda sampler, draws, epoch: sampler.clip_transforms(draws, epoch).rate,
    "frame_shift": lambda sampler, draws, epoch: sampler.clip_transforms(draws, epoch).shift,
    "reverb": lambda sampler, draws, epoch: sampler.room_indices(draws, epoch, NUM_ROOMS),
    "noise": lambda sampler, draws, epoch: (
        sampler.added_noise(draws, epoch).level * sampler.added_noise(draws, epoch).applied
    ),
    "mix": lambda sampler, draws, epoch: (
        sampler.mixed_noise(draws, epoch).level * sampler.mixed_noise(draws, epoch).applied
    ),
}
"""Step name -> the values that it draws, one number for each draw."""


def only(step: str, probability: float = 0.5) -> AugmentationSampler:
    """A sampler with this step only."""
    return sampler_for(preset("none", **{f"{step}_probability": probability}))


# --- probability and range ------------------------------------------------------------------------------------


def unchanged(step: str) -> float:
    """The value of a draw that the step is not applied to."""
    return {"amplitude": 1.0, "volume": 1.0, "speed": 1.0, "stretch": 1.0, "reverb": -1.0}.get(step, 0.0)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("probability", [0.2, 0.5, 1.0])
def test_a_step_is_applied_with_its_probability(step: str, probability: float) -> None:
    applied = STEPS[step](only(step, probability), DRAWS, 0) != unchanged(step)
    without_effect = {"frame_shift": 1 / 17}.get(step, 0.0)  # a shift by 0 frames
    wanted = probability * (1.0 - without_effect)
    assert abs(applied.mean() - wanted) <= 4.0 * np.sqrt(wanted * (1.0 - wanted) / COUNT) + 1e-3


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_probability_0_is_never_applied_and_changes_no_other_step(step: str) -> None:
    assert (STEPS[step](only(step, 0.0), DRAWS, 0) == unchanged(step)).all()
    without = sampler_for(dataclasses.replace(ALL, **{f"{step}_probability": 0.0}))
    for other, drawn in STEPS.items():
        combined = {step, other} in ({"amplitude", "volume"}, {"speed", "shift"})  # both change one number
        if other != step and not combined:
            np.testing.assert_array_equal(drawn(without, DRAWS, 0), drawn(sampler_for(ALL), DRAWS, 0))


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Uniform over the range: inside it, up to its ends, and with its mean and standard deviation."""
    assert low <= values.min() <= low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) <= values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
    assert abs(values.std() - (high - low) / np.sqrt(12)) < 0.02 * (high - low)


def test_the_classic_preset_has_its_ranges() -> None:
    sampler = sampler_for(CLASSIC)
    for found in (sampler.clip_transforms(DRAWS, 0), sampler.noise_transforms(DRAWS, 0)):
        assert (found.start == 0.0).all()
        assert_uniform(found.gain[found.gain != 1.0], 0.7, 1.1)
        assert_uniform(1.0 / found.step[found.step != 1.0] - 1.0, -0.2, 0.2)
        assert_uniform(found.rate[found.is_stretched] - 1.0, -0.2, 0.2)
        assert set(found.shift.tolist()) == set(range(-8, 9))
        counts = np.unique(found.shift, return_counts=True)[1]
        assert counts[np.arange(17) != 8].min() > 0.6 * COUNT * 0.5 / 17
        for applied in (found.gain != 1.0, found.step != 1.0, found.is_stretched):
            assert abs(applied.mean() - 0.5) < 0.05
    mix = sampler.mixed_noise(DRAWS, 0)
    assert abs(mix.applied.mean() - 0.5) < 0.05
    assert_uniform(mix.level, 0.0, 0.45)
    assert_uniform(mix.position, 0.0, 1.0)
    assert not sampler.added_noise(DRAWS, 0).applied.any()
    assert (sampler.room_indices(DRAWS, 0, NUM_ROOMS) == -1).all()


def test_the_classic_preset_as_settings() -> None:
    fields = dataclasses.asdict(CLASSIC)
    halves = {key for key, value in fields.items() if key.endswith("_probability") and value == 0.5}
    assert halves == {f"{step}_probability" for step in ("amplitude", "speed", "stretch", "frame_shift", "mix")}
    assert all(fields[key] == 0.0 for key in fields if key.endswith("_probability") and key not in halves)
    assert (fields["amplitude"], fields["speed"], fields["stretch"]) == ((0.7, 1.1), 0.2, 0.2)
    assert (fields["frame_shift"], fields["mix"], fields["speed_about"]) == (8, 0.45, "start")
    assert (fields["time_masks"], fields["band_masks"]) == (0, 0)


def test_the_modern_preset_has_its_ranges() -> None:
    settings = preset("modern", volume_probability=0.0, speed_probability=0.0)
    assert_uniform(sampler_for(settings).clip_transforms(DRAWS, 0).start, -1600, 1600)
    assert (sampler_for(settings).clip_transforms(DRAWS, 0).start % 1 == 0).all()
    settings = preset("modern", speed_probability=0.0)
    assert_uniform(20 * np.log10(sampler_for(settings).clip_transforms(DRAWS, 0).gain), -6, 6)
    settings = preset("modern", shift_probability=0.0)
    found = sampler_for(settings).clip_transforms(DRAWS, 0)
    assert_uniform(1.0 / found.step - 1.0, -0.1, 0.1)
    middle = (SAMPLES - 1) / 2
    np.testing.assert_allclose(found.start + middle * found.step, middle)
    noise = sampler_for(preset("modern")).added_noise(DRAWS, 0)
    assert abs(noise.applied.mean() - 0.7) < 0.05
    assert_uniform(noise.level, 0.0, 25.0)
    where = sampler_for(preset("modern")).room_indices(DRAWS, 0, NUM_ROOMS)
    assert abs((where >= 0).mean() - 0.2) < 0.04
    assert set(where.tolist()) == set(range(-1, NUM_ROOMS))


def test_mixed_noise_gets_amplitude_speed_stretch_and_frame_shift_only() -> None:
    found = sampler_for(ALL).noise_transforms(DRAWS, 0)
    assert set(np.unique(found.gain[found.gain != 1.0] // 0.1).tolist()) <= {6.0, 7.0, 8.0, 9.0, 10.0, 11.0}
    assert abs((found.gain == 1.0).mean() - 0.5) < 0.05  # amplitude, but no volume
    np.testing.assert_allclose(found.start + (SAMPLES - 1) / 2 * found.step, (SAMPLES - 1) / 2)  # no shift
    own = sampler_for(ALL).clip_transforms(DRAWS, 0)
    for one, other in ((own.rate, found.rate), (own.step, found.step), (own.shift, found.shift)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_masks_stay_within_their_limits() -> None:
    for size, count, most in ((101, 1, 20), (101, 2, 20), (40, 2, 6), (10, 1, 30)):
        masked = sampler_for(ALL).masks(DRAWS, 0, "frames", count, most, size)
        assert masked.shape == (COUNT, size)
        widths = masked.sum(axis=1)
        assert widths.max() <= min(size, count * most)
        assert widths.max() >= 0.9 * min(size, count * most)
        assert abs(widths.mean() - count * min(size, most) / 2) < 0.1 * count * most
        if count == 1:
            assert (np.diff(masked.astype(int), prepend=0, append=0, axis=1) == 1).sum(axis=1).max() == 1
    assert not sampler_for(ALL).masks(DRAWS, 0, "frames", 2, 0, 40).any()


# --- where a short recording lies -----------------------------------------------------------------------------

ANYWHERE = preset("none", place="anywhere")


def first_samples(settings: FrontEndConfig, lengths: np.ndarray, draws: np.ndarray = DRAWS) -> np.ndarray:
    """At which sample of the training clip each recording begins."""
    found = sampler_for(settings).clip_transforms(draws, 0, lengths)
    return -found.start / found.step


def test_a_short_recording_lies_anywhere_in_its_clip() -> None:
    found = first_samples(ANYWHERE, np.full(COUNT, 6000))
    assert_uniform(found, 0, SAMPLES - 6000)
    assert (found % 1 == 0).all()
    order = np.random.default_rng(1).permutation(COUNT)
    np.testing.assert_array_equal(first_samples(ANYWHERE, np.full(COUNT, 6000), DRAWS[order]), found[order])


@pytest.mark.parametrize("about", ["start", "middle"])
def test_a_short_recording_at_another_speed_is_not_cut(about: str) -> None:
    settings = dataclasses.replace(ANYWHERE, speed_probability=1.0, speed=0.3, speed_about=about)
    lengths = np.random.default_rng(2).integers(1, SAMPLES // 2, COUNT)
    found = first_samples(settings, lengths)
    step = sampler_for(settings).clip_transforms(DRAWS, 0).step
    assert found.min() >= -1e-6
    assert (found + lengths / step <= SAMPLES).all()


def test_a_recording_as_long_as_its_clip_is_not_moved() -> None:
    for length in (SAMPLES, SAMPLES + 100):
        assert (first_samples(ANYWHERE, np.full(COUNT, length)) == 0).all()


def test_the_place_is_moved_by_the_shift_and_changes_nothing_else() -> None:
    placed = dataclasses.replace(ALL, place="anywhere", speed_probability=0.0)
    still = dataclasses.replace(placed, shift_probability=0.0)
    lengths = np.full(COUNT, 6000)
    shift = np.rint(sampler_for(placed).shift_ms(DRAWS, 0) * 16)
    np.testing.assert_allclose(first_samples(placed, lengths), first_samples(still, lengths) + shift, atol=1e-6)
    one, other = (
        sampler_for(s).clip_transforms(DRAWS, 0, lengths) for s in (ALL, dataclasses.replace(ALL, place="anywhere"))
    )
    for name in ("gain", "step", "rate", "shift"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


# --- what the values depend on --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_every_step_depends_on_seed_epoch_and_draw(step: str) -> None:
    settings = preset("none", **{f"{step}_probability": 1.0})
    one = STEPS[step](sampler_for(settings), DRAWS, 3)
    np.testing.assert_array_equal(STEPS[step](sampler_for(settings), DRAWS, 3), one)
    for other in (
        STEPS[step](sampler_for(settings, seed=1), DRAWS, 3), STEPS[step](sampler_for(settings), DRAWS, 4),
        STEPS[step](sampler_for(settings), DRAWS + COUNT, 3),
    ):  # fmt: skip
        assert (other == one).mean() < 0.1


def test_steps_are_drawn_independently() -> None:
    settings = preset("none", **{f"{step}_probability": 1.0 for step in STEPS if step not in ("volume", "shift")})
    found = [STEPS[step](sampler_for(settings), DRAWS, 0) for step in STEPS if step not in ("volume", "shift")]
    likeness = np.corrcoef(np.stack(found)) - np.eye(len(found))
    assert np.abs(likeness).max() < 0.1


def test_whether_a_step_is_applied_is_independent_of_its_values() -> None:
    noise = only("noise").added_noise(DRAWS, 0)
    assert abs(noise.position[noise.applied].mean() - 0.5) < 0.05
    assert abs(np.corrcoef(noise.position, noise.level)[0, 1]) < 0.1


@pytest.mark.parametrize("settings", [CLASSIC, preset("modern"), ALL], ids=["classic", "modern", "all"])
def test_a_draw_gets_the_same_values_in_any_batch_and_order(settings: FrontEndConfig) -> None:
    sampler, order = sampler_for(settings), np.random.default_rng(1).permutation(COUNT)
    for name, whole in all_values(sampler, DRAWS).items():
        np.testing.assert_array_equal(all_values(sampler, DRAWS[order])[name], whole[order], err_msg=name)
        parts = [all_values(sampler, part)[name] for part in np.array_split(DRAWS, 7)]
        np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg=name)


def all_values(sampler: AugmentationSampler, draws: np.ndarray) -> dict[str, np.ndarray]:
    """All values of these draws, by name."""
    found: dict[str, np.ndarray] = {"rooms": sampler.room_indices(draws, 0, NUM_ROOMS)}
    found["masks"] = sampler.masks(draws, 0, "frames", 2, 20, 101)
    for name, drawn in (
        ("clip", sampler.clip_transforms(draws, 0)), ("mixed noise", sampler.noise_transforms(draws, 0)),
        ("noise", sampler.added_noise(draws, 0)), ("mix", sampler.mixed_noise(draws, 0)),
    ):  # fmt: skip
        found |= {f"{name} {field.name}": getattr(drawn, field.name) for field in dataclasses.fields(drawn)}
    return found


def test_the_global_generators_are_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before, at = torch.get_rng_state(), np.random.get_state()[2]
    one = all_values(sampler_for(ALL), DRAWS)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[2] == at
    torch.manual_seed(2)
    np.random.seed(2)
    for name, again in all_values(sampler_for(ALL), DRAWS).items():
        np.testing.assert_array_equal(again, one[name])


def test_the_key_of_the_random_numbers_never_changes() -> None:
    # A run that is resumed by a later version must draw the same values.
    found = sampler_for(CLASSIC, seed=7).clip_transforms(np.array([0, 1, 5]), 2)
    drawn = counter_rng.uniforms(np.array([0, 1, 5]), 2, "augment", 7, 2, "amplitude")
    np.testing.assert_array_equal(found.gain, np.where(drawn[:, 0] < 0.5, 0.7 + (1.1 - 0.7) * drawn[:, 1], 1.0))


# --- batches of parameters ------------------------------------------------------------------------------------


def test_parameters_are_selected_and_concatenated() -> None:
    whole = sampler_for(ALL).clip_transforms(np.arange(10), 0)
    joined = whole.select(np.arange(4)).concatenate(whole.select(np.arange(4, 10)))
    for field in dataclasses.fields(TransformParameters):
        np.testing.assert_array_equal(getattr(joined, field.name), getattr(whole, field.name))
    mix = sampler_for(ALL).mixed_noise(np.arange(10), 0)
    assert mix.select(np.array([7, 2])).level.tolist() == [mix.level[7], mix.level[2]]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws_finite_values(name: str) -> None:
    for values in all_values(sampler_for(preset(name)), DRAWS[:50]).values():
        assert np.isfinite(values).all()
