from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from kws.data import index
from kws.run import display
from kws.run.display import LineDisplay, LiveDisplay, RunLength, TimeEstimate, format_duration
from tests.conftest import tiny_settings

Kws = Callable[..., subprocess.CompletedProcess[str]]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
VALUES = {
    "loss": 0.412, "accuracy": 0.8734, "lr": 2.41e-3, "clips_per_s": 1834.2, "data_wait": 0.004, "gpu_gb": 2.13,
    "epoch": 11,
}  # fmt: skip


@pytest.fixture
def tiny(tones: index.Index, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(tiny_settings(tones.root, epochs=2, global_batch=16) + "log_steps = 1\n")
    return path


# --- remaining time ---------------------------------------------------------------------------------------------


def estimate(steps: range, seconds: Callable[[int], float], length: RunLength) -> TimeEstimate:
    """The estimate after those steps, each having taken seconds(step)."""
    now = [1000.0]
    found = TimeEstimate(length, lambda: now[0])
    for step in steps:
        now[0] += seconds(step)
        found.add_step(step)
    return found


def test_the_time_is_unknown_before_the_second_step() -> None:
    assert TimeEstimate(RunLength(2, 10)).seconds_left(0, 20) is None
    assert estimate(range(1, 2), lambda _: 1.0, RunLength(2, 10)).seconds_left(1, 20) is None


def test_a_resumed_run_uses_its_own_speed() -> None:
    found = estimate(range(801, 821), lambda _: 0.5, RunLength(1, 1000))
    assert found.seconds_left(820, 1000) == pytest.approx(180 * 0.5)


def test_the_first_step_of_an_attempt_is_not_counted() -> None:
    found = estimate(range(1, 6), lambda step: 300.0 if step == 1 else 2.0, RunLength(1, 10))
    assert found.seconds_left(5, 10) == pytest.approx(5 * 2.0)


def test_the_time_between_epochs_counts_once_per_epoch() -> None:
    length = RunLength(4, 10)
    found = estimate(range(1, 16), lambda step: 30.0 if step == 11 else 1.0, length)
    assert found.seconds_left(15, 20) == pytest.approx(5.0)
    assert found.seconds_left(15, 40) == pytest.approx(5.0 + 2 * (30.0 + 9.0))


def test_epochs_of_one_step() -> None:
    assert estimate(range(1, 4), lambda _: 7.0, RunLength(10, 1)).seconds_left(3, 10) == pytest.approx(49.0)


def test_a_changed_speed_takes_effect_within_minutes() -> None:
    found = estimate(range(1, 1000), lambda step: 1.0 if step < 500 else 3.0, RunLength(1, 2000))
    assert found.seconds_left(999, 1999) == pytest.approx(3000.0, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--"), (0.4, "0:00"), (75.2, "1:15"), (3599.6, "1:00:00"), (90_061, "25:01:01")]
)
def test_durations_are_formatted(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


# --- live display --------------------------------------------------------------------------------------------


def drawn(width: int, prepare: Callable[[LiveDisplay], None]) -> list[str]:
    """The lines of a live display in epoch 12 of 30."""
    shown = Console(width=width, force_terminal=True, file=io.StringIO(), soft_wrap=True, markup=False)
    screen = LiveDisplay(RunLength(30, 268), shown, 60.0)
    screen.event("start", 3069, {"best": 0.9})
    screen.advance(3070)
    prepare(screen)
    with shown.capture() as got:
        shown.print(screen.render())
    return CONTROL.sub("", got.get()).splitlines()


@pytest.mark.parametrize("width", [50, 60, 80, 200])
def test_every_line_fits_the_terminal_and_no_number_is_cut(width: int) -> None:
    lines = drawn(width, lambda screen: screen.event("step", 3070, VALUES))
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert lines[0].startswith("epoch 12/30 ")
    assert "122/268" in lines[0]
    assert "3,070/8,040" in lines[1]
    wanted = ["0.412", "87.3%", "1,834", "2.1 GB", "90.00%"]
    assert all(text in lines[3] for text in wanted)
    assert ("2.41e-03" in lines[3]) == (width >= 80)


PARTS = {
    "data": 1.9, "front_end": 18.2, "forward": 30.1, "backward": 41.0, "all_reduce": 5.2, "update": 3.6, "save": 0.1,
}  # fmt: skip
STRAGGLER = {
    "rank": 5, "host": "node3.cluster.example.org", "slow": True, "ratio": 1.4, "steps": 200, "part": "data",
    "wait": 0.26,
}  # fmt: skip


@pytest.mark.parametrize("width", [50, 80, 200])
def test_parts_of_the_time_and_a_straggler_have_a_line_each_that_fits(width: int) -> None:
    def prepare(screen: LiveDisplay) -> None:
        screen.event("step", 3070, VALUES | {"parts": PARTS})
        screen.event("straggler", 3070, STRAGGLER)

    lines = drawn(width, prepare)
    assert len(lines) == 6
    assert max(map(len, lines)) <= width
    assert "backward 41 %, forward 30 %" in lines[4]
    assert ("all-reduce 5 %" in lines[4]) == (width >= 80)
    assert "rank 5 on node3" in lines[5]


def test_a_former_straggler_leaves_the_screen() -> None:
    def prepare(screen: LiveDisplay) -> None:
        screen.event("straggler", 3070, STRAGGLER)
        screen.event("straggler", 3080, STRAGGLER | {"slow": False})

    assert not any("rank 5" in line for line in drawn(80, prepare))


def test_the_upper_bar_shows_an_evaluation_until_the_next_step() -> None:
    def evaluating(screen: LiveDisplay) -> None:
        screen.advance(11 * 268)
        screen.evaluation_progress(30, 120)

    assert re.match(r"valid 11/30 .* 25% +30/120 ", drawn(80, evaluating)[0])

    def after(screen: LiveDisplay) -> None:
        evaluating(screen)
        screen.advance(11 * 268 + 1)

    assert re.match(r"epoch 12/30 .* 1/268 ", drawn(80, after)[0])


def test_the_best_accuracy_is_that_of_the_averaged_weights() -> None:
    def epoch(screen: LiveDisplay) -> None:
        screen.event("epoch", 3216, {"epoch": 11, "valid_accuracy": 0.91, "ema_valid_accuracy": 0.93})

    assert "93.00%" in drawn(80, epoch)[-1]


# --- log file -----------------------------------------------------------------------------------------------


def logged(line_seconds: float, epochs: int = 2, **more: object) -> list[str]:
    shown = Console(file=io.StringIO(), soft_wrap=True, markup=False)
    lines = LineDisplay(RunLength(epochs, 50), shown, line_seconds)
    lines.event("start", 0, {"best": None})
    with shown.capture() as got:
        for step in range(1, 51):
            lines.advance(step)
            if step % 10 == 0:
                lines.event("step", step, {**VALUES, "epoch": 0, **more})
        lines.event("epoch", 50, {"epoch": 0, "train_loss": 1.5, "valid_loss": 1.25, "valid_accuracy": 0.5})
    return got.get().splitlines()


def test_short_epochs_have_one_line_each_with_the_time_that_is_left() -> None:
    (line,) = logged(3600.0)
    assert re.fullmatch(r"epoch 1/2  loss 1\.500  \| valid 1\.250  50\.00%  \| ETA 0:\d\d", line)
    assert logged(3600.0, epochs=1) == ["epoch 1/1  loss 1.500  | valid 1.250  50.00%"]


def test_a_long_epoch_has_lines_for_its_steps() -> None:
    *steps, last = logged(0.0)
    assert [line.split("  ")[0] for line in steps] == [f"step {n}/100" for n in (10, 20, 30, 40)]
    assert re.fullmatch(
        r"step 10/100  epoch 1/2  loss 0\.412  accuracy 87\.3%  lr 2\.41e-03  1834 clips/s  data wait 0\.4%  "
        r"GPU 2\.1 GB  ETA 0:\d\d",
        steps[0],
    )
    assert last.startswith("epoch 1/2")


def test_a_line_ends_with_the_largest_parts_of_the_time() -> None:
    assert logged(0.0, parts=PARTS)[0].endswith("  time: backward 41 %, forward 30 %")


# --- the command itself ---------------------------------------------------------------------------------------


def through_terminal(command: list[str]) -> str:
    """Everything that a successful command writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color"}
    # openpty's terminal has no size; rich then takes 80 x 25.
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment)
    os.close(theirs)
    parts: list[bytes] = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    _, errors = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, errors
    return b"".join(parts).decode()


def test_a_terminal_shows_bars_and_keeps_messages(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kws", "train", str(tiny), "--run", str(tmp_path / "run")]
    text = through_terminal(command)
    plain = CONTROL.sub("", text).replace("\r", "\n")
    assert re.search(r"^epoch 1/2 [━╺╸ ]+ \d+% +\d+/\d+ ", plain, re.MULTILINE)
    assert re.search(r"^run +[━╺╸ ]+ \d+% +\d+/\d+ +\d+:\d\d +ETA ", plain, re.MULTILINE)
    assert re.search(r"^ +loss +accuracy +lr +clips/s +data wait +best valid", plain, re.MULTILINE)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor comes back"
    assert len(re.findall(r"^epoch \d/2  loss", plain, re.MULTILINE)) == 2
    assert "next: kws evaluate" in plain.rstrip().splitlines()[-1]


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(tiny: Path, tmp_path: Path, kws: Kws) -> None:
    done = kws("train", tiny, "--run", tmp_path / "run", "--set", "train.log_minutes=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert not set("\x1b\r") & set(done.stdout)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    ends = {row["step"] for row in steps if row["event"] == "epoch"}
    logged = {row["step"] for row in steps if row["event"] == "step"} - ends
    assert done.stdout.count("\nstep ") == len(logged) > 0
    assert done.stdout.count("\nepoch ") == 2


def test_a_terminal_without_cursor_movement_gets_lines() -> None:
    dumb = Console(force_terminal=True, file=io.StringIO(), _environ={"TERM": "dumb"})
    assert type(display.make_display(RunLength(1, 1), dumb, 60.0)) is LineDisplay
    able = Console(force_terminal=True, file=io.StringIO(), _environ={"TERM": "xterm"})
    assert type(display.make_display(RunLength(1, 1), able, 60.0)) is LiveDisplay
