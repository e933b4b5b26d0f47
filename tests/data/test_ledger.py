"""The ledger of a run that followed its plan has no fault; every other ledger has one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kws.data import ledger
from kws.data.index import Index
from kws.data.ledger import Ledger, LedgerComparison
from kws.data.plan import Plan, PlanSettings
from kws.errors import user_message

SETTINGS = PlanSettings("balanced", slots=4, micro_batch=5, seed=3, epoch_clips=100)
STEPS, BATCH = 5, 20
"""Steps of an epoch, clips of a step."""
HEAD, ROW = 16, 40
"""Bytes of the head of a ledger file and of a row."""


@pytest.fixture
def plans(tones: Index) -> dict[int, Plan]:
    return {epoch: Plan(tones.split("train"), [0, 1, 2], SETTINGS, epoch) for epoch in range(3)}


def consume(run: Path, plans: dict[int, Plan], attempt: int, world: int, start: int, stop: int) -> None:
    """Writes the ledgers of `world` ranks that run the steps start .. stop-1."""
    run.mkdir(exist_ok=True)
    for rank in range(world):
        writer = Ledger(run, attempt, rank, start)
        for step in range(start, stop):
            epoch, within = divmod(step, STEPS)
            share = SETTINGS.slots // world
            for slot in plans[epoch].step_slots(within)[rank * share : (rank + 1) * share]:
                writer.add(epoch, step, slot.slot, slot.draws, slot.clips)
        writer.close()


def check(run: Path, plans: dict[int, Plan], done: int) -> LedgerComparison:
    return ledger.compare_with_plan(run, {epoch: plans[epoch] for epoch in range(-(-done // STEPS))}, STEPS, done)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("done", [1, 5, 12])
def test_a_full_ledger_is_the_plan(tmp_path: Path, plans: dict[int, Plan], world: int, done: int) -> None:
    consume(tmp_path, plans, 0, world, 0, done)
    assert check(tmp_path, plans, done) == LedgerComparison(done * BATCH, 0, [])


def test_the_short_last_step_of_natural_is_complete(tmp_path: Path, tones: Index) -> None:
    plan = Plan(tones.split("train"), [0, 1, 2], PlanSettings("natural", 8, 3, seed=0, epoch_clips=26), 0)
    writer = Ledger(tmp_path, 0, 0, 0)
    for slot in plan.rank_slots(0, 1):
        writer.add(0, slot.step, slot.slot, slot.draws, slot.clips)
    writer.close()
    assert ledger.compare_with_plan(tmp_path, {0: plan}, plan.steps, plan.steps) == LedgerComparison(26, 0, [])


def test_steps_that_a_resume_replays_count_once(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=2, start=0, stop=7)
    consume(tmp_path, plans, 1, world=4, start=4, stop=9)
    consume(tmp_path, plans, 2, world=1, start=8, stop=12)
    assert check(tmp_path, plans, 12) == LedgerComparison(12 * BATCH, 4 * BATCH, [])


def test_steps_after_the_last_checkpoint_do_not_count(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=2, start=0, stop=8)
    assert check(tmp_path, plans, 6) == LedgerComparison(6 * BATCH, 0, [])


def only_file(run: Path) -> Path:
    (path,) = (run / "ledger").iterdir()
    return path


def test_a_last_row_that_a_kill_cut_short_is_ignored(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=1, start=0, stop=6)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-13])
    assert check(tmp_path, plans, 5) == LedgerComparison(5 * BATCH, 0, [])
    consume(tmp_path, plans, 1, world=1, start=5, stop=7)
    assert check(tmp_path, plans, 7) == LedgerComparison(7 * BATCH, BATCH - 1, [])


def test_an_attempt_killed_before_its_head_was_written_is_ignored(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=1, start=0, stop=6)
    (tmp_path / "ledger" / "0001-00000.i64").write_bytes(b"\0" * 9)
    assert check(tmp_path, plans, 6).faults == []


ROW_AT = HEAD + 33 * ROW
"""Draw 13 of step 1."""


def lose(data: bytearray) -> None:
    del data[ROW_AT : ROW_AT + ROW]


def double(data: bytearray) -> None:
    data += data[ROW_AT : ROW_AT + ROW]


def write_number(column: int, value: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        at = ROW_AT + 8 * column
        data[at : at + 8] = np.int64(value).tobytes()

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lose, (1, 0, 0)),
        (double, (0, 0, 1)),
        (write_number(4, 9999), (1, 1, 0)),
        (write_number(3, 32), (1, 1, 0)),
        (write_number(2, 3), (1, 1, 0)),
        (write_number(1, 2), (1, 1, 0)),
        (write_number(1, 7), (1, 0, 0)),
        (write_number(0, 1), (1, 1, 0)),
    ],
    ids=["lost", "doubled", "clip", "draw", "slot", "step", "step of another epoch", "epoch"],
)
def test_a_wrong_row_is_found_and_located(
    tmp_path: Path, plans: dict[int, Plan], change: Callable[[bytearray], None], found: tuple[int, int, int]
) -> None:
    consume(tmp_path, plans, 0, world=1, start=0, stop=9)
    data = bytearray(only_file(tmp_path).read_bytes())
    change(data)
    only_file(tmp_path).write_bytes(data)
    (fault, *_) = check(tmp_path, plans, 9).faults
    lost, unplanned, doubled = map(int, re.findall(r" (\d+) ", fault.partition(";")[0].partition(":")[2])[:3])
    assert (lost, unplanned, doubled) == found
    assert "epoch 0" in fault
    assert "step 1" in fault


def test_an_extra_row_in_the_steps_of_a_later_epoch_is_found(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=1, start=0, stop=9)
    extra = np.array([0, 7, 0, 0, 0], dtype=np.int64)  # epoch 0, though step 7 is of epoch 1
    with only_file(tmp_path).open("ab") as file:
        extra.tofile(file)
    assert "1 not in the plan" in "".join(check(tmp_path, plans, 9).faults)


def test_epochs_that_were_not_reached_are_found(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=1, start=0, stop=4)
    data = bytearray(only_file(tmp_path).read_bytes())
    write_number(0, 2)(data)
    only_file(tmp_path).write_bytes(data)
    assert any("epochs" in fault for fault in check(tmp_path, plans, 4).faults)


def test_a_rank_that_wrote_nothing_is_found(tmp_path: Path, plans: dict[int, Plan]) -> None:
    consume(tmp_path, plans, 0, world=4, start=0, stop=5)
    (tmp_path / "ledger" / "0000-00002.i64").unlink()
    assert f"{5 * 5} draws lost" in check(tmp_path, plans, 5).faults[0]


def test_without_any_ledger_all_draws_are_lost(tmp_path: Path, plans: dict[int, Plan]) -> None:
    (tmp_path / "ledger").mkdir()
    assert check(tmp_path, plans, 5).faults[0].startswith(f"epoch 0: {5 * BATCH} draws lost")


@pytest.mark.parametrize("column", [2, 3, 4], ids=["slot", "draw", "clip"])
def test_a_replayed_step_that_had_read_another_clip_is_found(
    tmp_path: Path, plans: dict[int, Plan], column: int
) -> None:
    consume(tmp_path, plans, 0, world=1, start=0, stop=5)
    data = bytearray(only_file(tmp_path).read_bytes())
    write_number(column, 9999)(data)
    only_file(tmp_path).write_bytes(data)
    consume(tmp_path, plans, 1, world=1, start=1, stop=5)
    comparison = check(tmp_path, plans, 5)
    assert (comparison.consumed, comparison.replayed) == (5 * BATCH, 4 * BATCH)
    assert ["step 1" in fault for fault in comparison.faults] == [True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_an_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger" / "0001-00000.i64"
    path.parent.mkdir()
    path.symlink_to("/dev/full")
    writer = Ledger(tmp_path, attempt=1, rank=0, start_step=0)
    with pytest.raises(OSError, match="No space left") as raised:
        writer.flush()
    assert str(user_message(raised.value)).startswith(f"{path}: No space left on device")
    with contextlib.suppress(OSError):
        writer.close()
