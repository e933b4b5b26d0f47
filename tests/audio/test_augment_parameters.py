"""What is drawn: honoured probabilities and ranges, and nothing but (seed, epoch, draw, step) in it."""

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
SEED_CHAIN = preset("classic")
ALL = preset(
    "modern", **{f"{step}_probability": 0.5 for step in ("amplitude", "stretch", "frame_shift", "mix")}
)  # every step at once
NUM_ROOMS = 64


def of(settings: FrontEndConfig, seed: int = 0) -> AugmentationSampler:
    return AugmentationSampler(settings, seed, SAMPLES)


Drawn = Callable[[AugmentationSampler, np.ndarray, int], np.ndarray]
STEPS: dict[str, Drawn] = {
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
"""By step: what it draws, one number a draw."""


def only(step: str, probability: float = 0.5) -> AugmentationSampler:
    """One step of them all."""
    return of(preset("none", **{f"{step}_probability": probability}))


# --- probability and range ------------------------------------------------------------------------------------


def still(step: str) -> float:
    """What a draw without the step has."""
    return {"amplitude": 1.0, "volume": 1.0, "speed": 1.0, "stretch": 1.0, "reverb": -1.0}.get(step, 0.0)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("probability", [0.2, 0.5, 1.0])
def test_a_step_happens_as_often_as_asked(step: str, probability: float) -> None:
    applied = STEPS[step](only(step, probability), DRAWS, 0) != still(step)
    chance_of_nothing = {"frame_shift": 1 / 17}.get(step, 0.0)  # a shift by 0 frames
    wanted = probability * (1.0 - chance_of_nothing)
    assert abs(applied.mean() - wanted) <= 4.0 * np.sqrt(wanted * (1.0 - wanted) / COUNT) + 1e-3


@pytest.mark.parametrize("step", STEPS)
def test_a_step_at_zero_never_happens_and_disturbs_no_other(step: str) -> None:
    assert (STEPS[step](only(step, 0.0), DRAWS, 0) == still(step)).all()
    without = of(dataclasses.replace(ALL, **{f"{step}_probability": 0.0}))
    for other, drawn in STEPS.items():
        apart = {step, other} in ({"amplitude", "volume"}, {"speed", "shift"})  # which meet in one number
        if other != step and not apart:
            np.testing.assert_array_equal(drawn(without, DRAWS, 0), drawn(of(ALL), DRAWS, 0))


def spread_evenly(values: np.ndarray, low: float, high: float) -> None:
    """Uniform over the range: inside it, up to its ends, and with its mean and deviation."""
    assert low <= values.min() <= low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) <= values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
    assert abs(values.std() - (high - low) / np.sqrt(12)) < 0.02 * (high - low)


def test_the_seeds_chain_has_the_seeds_ranges() -> None:
    for of_noise in ("", "noise."):
        course = of(SEED_CHAIN).course(DRAWS, 0, of_noise)
        assert (course.start == 0.0).all()
        spread_evenly(course.gain[course.gain != 1.0], 0.7, 1.1)
        spread_evenly(1.0 / course.step[course.step != 1.0] - 1.0, -0.2, 0.2)
        spread_evenly(course.rate[course.is_stretched] - 1.0, -0.2, 0.2)
        assert set(course.shift.tolist()) == set(range(-8, 9))
        counts = np.unique(course.shift, return_counts=True)[1]
        assert counts[np.arange(17) != 8].min() > 0.6 * COUNT * 0.5 / 17
        for applied in (course.gain != 1.0, course.step != 1.0, course.is_stretched):
            assert abs(applied.mean() - 0.5) < 0.05
    mix = of(SEED_CHAIN).mix(DRAWS, 0)
    assert abs(mix.applied.mean() - 0.5) < 0.05
    spread_evenly(mix.level, 0.0, 0.45)
    spread_evenly(mix.position, 0.0, 1.0)
    assert not of(SEED_CHAIN).noise(DRAWS, 0).applied.any()
    assert (of(SEED_CHAIN).rooms(DRAWS, 0, NUM_ROOMS) == -1).all()


def test_the_seeds_chain_as_settings() -> None:
    fields = dataclasses.asdict(SEED_CHAIN)
    halves = {key for key, value in fields.items() if key.endswith("_probability") and value == 0.5}
    assert halves == {f"{step}_probability" for step in ("amplitude", "speed", "stretch", "frame_shift", "mix")}
    assert all(fields[key] == 0.0 for key in fields if key.endswith("_probability") and key not in halves)
    assert (fields["amplitude"], fields["speed"], fields["stretch"]) == ((0.7, 1.1), 0.2, 0.2)
    assert (fields["frame_shift"], fields["mix"], fields["speed_about"]) == (8, 0.45, "start")
    assert (fields["time_masks"], fields["band_masks"]) == (0, 0)


def test_the_modern_chain_has_its_ranges() -> None:
    settings = preset("modern", volume_probability=0.0, speed_probability=0.0)
    spread_evenly(of(settings).course(DRAWS, 0).start, -1600, 1600)
    assert (of(settings).course(DRAWS, 0).start % 1 == 0).all()
    settings = preset("modern", speed_probability=0.0)
    spread_evenly(20 * np.log10(of(settings).course(DRAWS, 0).gain), -6, 6)
    settings = preset("modern", shift_probability=0.0)
    course = of(settings).course(DRAWS, 0)
    spread_evenly(1.0 / course.step - 1.0, -0.1, 0.1)
    middle = (SAMPLES - 1) / 2
    np.testing.assert_allclose(course.start + middle * course.step, middle)
    noise = of(preset("modern")).noise(DRAWS, 0)
    assert abs(noise.applied.mean() - 0.7) < 0.05
    spread_evenly(noise.level, 0.0, 25.0)
    where = of(preset("modern")).rooms(DRAWS, 0, NUM_ROOMS)
    assert abs((where >= 0).mean() - 0.2) < 0.04
    assert set(where.tolist()) == set(range(-1, NUM_ROOMS))


def test_noise_that_is_mixed_in_goes_through_the_steps_of_the_seeds_chain_alone() -> None:
    course = of(ALL).course(DRAWS, 0, "noise.")
    assert set(np.unique(course.gain[course.gain != 1.0] // 0.1).tolist()) <= {6.0, 7.0, 8.0, 9.0, 10.0, 11.0}
    assert abs((course.gain == 1.0).mean() - 0.5) < 0.05  # amplitude, but no volume
    np.testing.assert_allclose(course.start + (SAMPLES - 1) / 2 * course.step, (SAMPLES - 1) / 2)  # no shift
    own = of(ALL).course(DRAWS, 0)
    for one, other in ((own.rate, course.rate), (own.step, course.step), (own.shift, course.shift)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_masks_stay_within_their_limits() -> None:
    for size, count, most in ((101, 1, 20), (101, 2, 20), (40, 2, 6), (10, 1, 30)):
        hidden = of(ALL).hidden(DRAWS, 0, "frames", count, most, size)
        assert hidden.shape == (COUNT, size)
        widths = hidden.sum(axis=1)
        assert widths.max() <= min(size, count * most)
        assert widths.max() >= 0.9 * min(size, count * most)
        assert abs(widths.mean() - count * min(size, most) / 2) < 0.1 * count * most
        if count == 1:
            assert (np.diff(hidden.astype(int), prepend=0, append=0, axis=1) == 1).sum(axis=1).max() == 1
    assert not of(ALL).hidden(DRAWS, 0, "frames", 2, 0, 40).any()


# --- what a draw hangs on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_every_step_hangs_on_seed_epoch_and_draw(step: str) -> None:
    settings = preset("none", **{f"{step}_probability": 1.0})
    one = STEPS[step](of(settings), DRAWS, 3)
    np.testing.assert_array_equal(STEPS[step](of(settings), DRAWS, 3), one)
    for other in (
        STEPS[step](of(settings, seed=1), DRAWS, 3), STEPS[step](of(settings), DRAWS, 4),
        STEPS[step](of(settings), DRAWS + COUNT, 3),
    ):  # fmt: skip
        assert (other == one).mean() < 0.1


def test_every_step_has_numbers_of_its_own() -> None:
    settings = preset("none", **{f"{step}_probability": 1.0 for step in STEPS if step not in ("volume", "shift")})
    found = [STEPS[step](of(settings), DRAWS, 0) for step in STEPS if step not in ("volume", "shift")]
    likeness = np.corrcoef(np.stack(found)) - np.eye(len(found))
    assert np.abs(likeness).max() < 0.1


def test_a_step_is_applied_by_other_numbers_than_it_is_drawn_by() -> None:
    noise = only("noise").noise(DRAWS, 0)
    assert abs(noise.position[noise.applied].mean() - 0.5) < 0.05
    assert abs(np.corrcoef(noise.position, noise.level)[0, 1]) < 0.1


@pytest.mark.parametrize("settings", [SEED_CHAIN, preset("modern"), ALL], ids=["classic", "modern", "all"])
def test_the_same_draws_in_any_order_and_number_give_exactly_the_same(settings: FrontEndConfig) -> None:
    sampler, order = of(settings), np.random.default_rng(1).permutation(COUNT)
    for name, whole in everything(sampler, DRAWS).items():
        np.testing.assert_array_equal(everything(sampler, DRAWS[order])[name], whole[order], err_msg=name)
        parts = [everything(sampler, part)[name] for part in np.array_split(DRAWS, 7)]
        np.testing.assert_array_equal(np.concatenate(parts), whole, err_msg=name)


def everything(sampler: AugmentationSampler, draws: np.ndarray) -> dict[str, np.ndarray]:
    """All that is drawn for these draws, by name."""
    found: dict[str, np.ndarray] = {"rooms": sampler.room_indices(draws, 0, NUM_ROOMS)}
    found["hidden"] = sampler.masks(draws, 0, "frames", 2, 20, 101)
    for name, drawn in (
        ("own", sampler.clip_transforms(draws, 0)), ("noise's", sampler.noise_transforms(draws, 0)),
        ("noise", sampler.added_noise(draws, 0)), ("mix", sampler.mixed_noise(draws, 0)),
    ):  # fmt: skip
        found |= {f"{name} {field.name}": getattr(drawn, field.name) for field in dataclasses.fields(drawn)}
    return found


def test_the_global_generators_neither_matter_nor_move() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before, at = torch.get_rng_state(), np.random.get_state()[2]
    one = everything(of(ALL), DRAWS)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[2] == at
    torch.manual_seed(2)
    np.random.seed(2)
    for name, again in everything(of(ALL), DRAWS).items():
        np.testing.assert_array_equal(again, one[name])


def test_the_numbers_are_those_of_the_first_version() -> None:
    # A run that is resumed by a later version must draw what it would have drawn: these are never to change.
    course = of(SEED_CHAIN, seed=7).course(np.array([0, 1, 5]), 2)
    drawn = counter_rng.uniforms(np.array([0, 1, 5]), 2, "augment", 7, 2, "amplitude")
    np.testing.assert_array_equal(course.gain, np.where(drawn[:, 0] < 0.5, 0.7 + (1.1 - 0.7) * drawn[:, 1], 1.0))


# --- parts of it ----------------------------------------------------------------------------------------------


def test_courses_are_taken_apart_and_joined() -> None:
    whole = of(ALL).course(np.arange(10), 0)
    joined = TransformParameters.joined(whole.select(np.arange(4)), whole.select(np.arange(4, 10)))
    for field in dataclasses.fields(TransformParameters):
        np.testing.assert_array_equal(getattr(joined, field.name), getattr(whole, field.name))
    mix = of(ALL).mix(np.arange(10), 0)
    assert mix.select(np.array([7, 2])).level.tolist() == [mix.level[7], mix.level[2]]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_draws_finite_numbers(name: str) -> None:
    for values in everything(of(preset(name)), DRAWS[:50]).values():
        assert np.isfinite(values).all()
