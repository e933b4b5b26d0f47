"""What of train.profile needs no training: notes, names of files, a folder that cannot be written. tests/training/
test_trainer.py profiles a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kws.distributed.ranks import Ranks
from kws.training.forward import NoWatchdog
from kws.training.profiling import MOST_RANKS, StepProfile, profile_note
from kws.training.step_times import StepTimes
from tests.training.one_process import OneProcess


def profile_steps(folder: Path, wanted: tuple[int, int], steps: range, rank: int = 0) -> None:
    """Runs steps that add two numbers each."""
    ranks = Ranks(rank, rank + 1, torch.device("cpu"), 1, OneProcess())
    times = StepTimes()
    profile = StepProfile(wanted, steps.start, folder, ranks, times, NoWatchdog())
    for number in steps:
        with profile.step(number), times.part("forward"):
            torch.ones(2) + 1.0
    profile.close()


def traces(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.json.gz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "names"),
    [
        (range(9), ["steps-2-4.rank0.json.gz"]),
        (range(3, 9), ["steps-3-4.rank0.json.gz"]),
        (range(3), ["steps-2-3.rank0.json.gz"]),
        (range(4, 9), []),
        (range(2), []),
    ],
)
def test_a_trace_is_named_by_the_steps_in_it(steps: range, names: list[str], tmp_path: Path) -> None:
    profile_steps(tmp_path, (2, 4), steps)
    assert traces(tmp_path) == names


@pytest.mark.slow
def test_of_many_ranks_the_first_write_a_trace(tmp_path: Path) -> None:
    for rank in (MOST_RANKS - 1, MOST_RANKS):
        profile_steps(tmp_path, (0, 1), range(1), rank)
    assert traces(tmp_path) == [f"steps-0-1.rank{MOST_RANKS - 1}.json.gz"]


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_a_line_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "profile").write_text("a file")
    profile_steps(tmp_path / "profile", (0, 1), range(2))
    (line,) = capsys.readouterr().err.splitlines()
    assert "train.profile" in line
    assert str(tmp_path / "profile") in line


@pytest.mark.parametrize(
    ("wanted", "step", "words"),
    [
        (None, 5, []),
        ((5, 8), 5, []),
        ((5, 8), 6, ["starts at step 6", "steps 6 to 7"]),
        ((5, 8), 8, ["nothing"]),
        ((95, 105), 0, ["steps 95 to 99"]),
        ((100, 105), 0, ["nothing"]),
    ],
)
def test_a_note_names_the_steps_that_are_profiled(wanted: tuple[int, int] | None, step: int, words: list[str]) -> None:
    note = profile_note(wanted, step, total_steps=100)
    assert bool(note) == bool(words)
    assert all(word in note for word in words)
