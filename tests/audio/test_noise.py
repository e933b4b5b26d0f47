"""The noise bank's rows and windows, and the synthetic rooms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kws.audio.noise import NUM_ROOMS, NoiseBank, room_responses

CPU = torch.device("cpu")
SAMPLES, RATE = 100, 16000


def recording(length: int, level: int) -> np.ndarray:
    """Samples that identify their position: level + 0, 1, 2, ..."""
    return (level + np.arange(length)).astype(np.int16)


def as_int(rows: torch.Tensor) -> np.ndarray:
    return (rows.numpy() * 32768).round().astype(np.int64)


# --- the bank -------------------------------------------------------------------------------------------------


def test_rows_are_all_recordings_end_to_end_without_the_remainder() -> None:
    parts = [recording(250, 0), recording(130, 1000), recording(199, 2000)]
    bank = NoiseBank(parts, SAMPLES, CPU)
    assert bank.num_rows == 5  # of 579 samples
    rows = bank.rows(torch.arange(5))
    assert rows.dtype == torch.float32
    np.testing.assert_array_equal(as_int(rows).reshape(-1), np.concatenate(parts)[:500])
    assert as_int(bank.rows(torch.tensor([4, 0, 4])))[:, 0].tolist() == [2020, 0, 2020]


def test_windows_are_all_stretches_inside_one_recording() -> None:
    parts = [recording(250, 0), recording(60, 1000), recording(SAMPLES, 2000), recording(130, 3000)]
    bank = NoiseBank(parts, SAMPLES, CPU)
    wanted = [part[at : at + SAMPLES] for part in parts for at in range(len(part) - SAMPLES + 1)]
    assert bank.num_windows == len(wanted) == 151 + 0 + 1 + 31
    starts = bank.window_starts(np.arange(bank.num_windows))
    np.testing.assert_array_equal(as_int(bank.windows(torch.from_numpy(starts))), np.stack(wanted))
    assert as_int(bank.windows(torch.from_numpy(starts[[182, 0, 151]])))[:, 0].tolist() == [3030, 0, 2000]


@pytest.mark.parametrize(
    ("lengths", "rows", "windows"), [((), 0, 0), ((0,), 0, 0), ((99,), 0, 0), ((60, 60), 1, 0), ((100,), 1, 1)]
)
def test_too_little_noise_gives_no_rows_or_windows(lengths: tuple[int, ...], rows: int, windows: int) -> None:
    bank = NoiseBank([recording(length, 0) for length in lengths], SAMPLES, CPU)
    assert (bank.num_rows, bank.num_windows) == (rows, windows)


def test_the_recordings_may_be_read_only_views() -> None:
    view = np.frombuffer(recording(300, 5).tobytes(), np.int16)
    assert as_int(NoiseBank([view], SAMPLES, CPU).rows(torch.tensor([1])))[0, 0] == 105


# --- rooms ----------------------------------------------------------------------------------------------------


def decay_seconds(response: np.ndarray) -> float:
    """Reverberation time (60 dB), from the decay of the remaining energy from -5 to -25 dB (Schroeder, 1965)."""
    tail = response[1:].astype(np.float64)
    tail = tail[np.flatnonzero(tail)[0] :]
    level = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2) + 1e-30)
    first, last = np.argmax(level < -5), np.argmax(level < -25)
    slope = np.polyfit(np.arange(first, last) / RATE, level[first:last], 1)[0]
    return float(-60.0 / slope)


@pytest.mark.parametrize("seconds", [0.25, *(pytest.param(value, marks=pytest.mark.slow) for value in (0.1, 0.4, 1.0))])
def test_reverberation_decays_by_60_db_within_its_time(seconds: float) -> None:
    found = np.array([decay_seconds(response) for response in room_responses((seconds, seconds), 3, CPU).numpy()])
    assert np.abs(found / seconds - 1.0).max() < 0.2
    assert abs(found.mean() / seconds - 1.0) < 0.05


def test_reverberation_times_cover_their_range() -> None:
    found = np.array([decay_seconds(response) for response in room_responses((0.1, 0.4), 0, CPU).numpy()])
    assert found.min() < 0.15
    assert found.max() > 0.35
    assert abs(found.mean() - 0.25) < 0.05


def test_rooms_have_unit_energy_and_the_direct_sound_first_and_strongest() -> None:
    responses = room_responses((0.1, 0.4), 0, CPU)
    assert responses.shape == (NUM_ROOMS, round(0.45 * RATE))
    torch.testing.assert_close(responses.square().sum(dim=1), torch.ones(NUM_ROOMS), rtol=1e-5, atol=1e-5)
    assert (responses.abs().argmax(dim=1) == 0).all()
    ratio = 10 * torch.log10(responses[:, 0] ** 2 / responses[:, 1:].square().sum(dim=1))
    assert 0.0 <= ratio.min() < 2.0
    assert 13.0 < ratio.max() <= 15.0
    silent = (responses[:, 1:] != 0).float().argmax(dim=1) / RATE  # before the first reflection
    assert silent.min() >= 0.0009
    assert silent.max() <= 0.0101


def test_rooms_differ_and_depend_on_the_seed() -> None:
    one, again, other = (room_responses((0.1, 0.4), seed, CPU) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not (one == other).all(dim=1).any()
    assert len(torch.unique(one[:, 1000])) == NUM_ROOMS


def test_few_rooms_are_the_first_of_many() -> None:
    assert torch.equal(room_responses((0.1, 0.4), 5, CPU, 3), room_responses((0.1, 0.4), 5, CPU)[:3])
