"""`kws listen` with a file as the microphone: a trained network detects tones, and the kept clips are packed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kws import cli
from kws.audio import codec
from kws.data import index
from kws.evaluation.trained import Trained
from kws.streaming.events import Detector, DetectorSettings
from kws.streaming.scorers import make_scorer
from kws.streaming.scores import Scores, joined
from tests.conftest import tone
from tests.terminal import run_on_terminal

pytestmark = pytest.mark.xdist_group("tones_run")
Environment = Callable[..., dict[str, str]]
Kws = Callable[..., subprocess.CompletedProcess[str]]


def recording() -> codec.Pcm:
    """Six seconds: a second of each tone."""
    quiet = tone(50, 16_000, level=0.001)
    return np.concatenate([quiet, tone(200), quiet, tone(400), quiet, tone(600)])


def scores_of(run: Path, pcm: codec.Pcm) -> tuple[Sequence[str], float, Scores]:
    """Classes, time between scores, and the scores of the whole recording at once."""
    scorer = make_scorer(Trained.from_run(run, "best_accuracy", torch.device("cpu")))
    return scorer.classes, scorer.step_s, joined([scorer.push(pcm), scorer.finish()])


def test_events_are_those_of_the_recording_and_their_clips_can_be_packed(
    tones_run: Path,
    microphone_file: Environment,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in microphone_file(recording()).items():
        monkeypatch.setenv(name, value)
    classes, step_s, scores = scores_of(tones_run, recording())
    threshold = float(np.quantile(scores.probabilities.max(axis=1), 0.8))  # a fifth of the scores is above
    wanted = Detector(classes, step_s, DetectorSettings(threshold)).push(scores)
    kept, options = tmp_path / "kept", ("--seconds", "6", "--threshold", str(threshold))
    capsys.readouterr()
    assert cli.main(["listen", str(tones_run), *options, "--json", "--keep", str(kept)]) == cli.OK
    rows: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [row for row in rows if row["kind"] == "event"]
    assert wanted
    assert [(row["time_s"], row["word"]) for row in events] == [(event.time_s, event.word) for event in wanted]
    assert [row["probability"] for row in events] == pytest.approx([event.probability for event in wanted], abs=1e-5)
    files = [Path(row["file"]) for row in rows if row["kind"] == "kept"]
    assert len(files) == sum(row["kind"] in ("event", "near_miss") for row in rows)
    assert rows[-1]["kind"] == "end"
    assert (rows[-1]["seconds"], rows[-1]["overruns"], rows[-1]["kept"]) == (6.0, 0, len(files))
    assert all(8_000 < len(codec.decode(path.read_bytes())) <= 16_000 for path in files)

    assert cli.main(["pack", str(kept), str(tmp_path / "shards"), "--processes", "1"]) == cli.OK
    packed = index.load(tmp_path / "shards")
    assert sum(map(len, packed.splits.values())) == len(events)
    assert {word for word in packed.words if not word.startswith("_")} == {event.word for event in wanted}


@pytest.mark.slow
def test_ctrl_c_ends_it_with_the_counts(tones_run: Path, microphone_file: Environment, tmp_path: Path) -> None:
    env = {**os.environ, **microphone_file(np.tile(recording(), 2))}
    options = ["--threshold", "0.4", "--keep", str(tmp_path / "kept")]
    command = [sys.executable, "-m", "kws", "listen", str(tones_run), *options]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert re.fullmatch(r" +\d+\.\d\d s  (low|mid|high)  \d+\.\d%\n", first)
    last = rest.splitlines()[-1]
    files = list((tmp_path / "kept").rglob("*.wav"))
    assert f"{len(files)} clips kept" in last
    assert f"kws pack {tmp_path / 'kept'}" in last
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_terminal_shows_bars_of_all_words_and_the_events(tones_run: Path, microphone_file: Environment) -> None:
    command = [sys.executable, "-m", "kws", "listen", str(tones_run), "--seconds", "6", "--threshold", "0.4"]
    code, text = run_on_terminal(command, microphone_file(recording()))
    assert code == 0, text
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert all(re.search(rf"\b{word} [█▒│·]{{20}} +\d+%", shown) for word in ("low", "mid", "high"))
    assert re.search(r"\d\.\d\d s  (low|mid|high)  \d+\.\d%", shown)
    assert re.search(r"6\.0 s, \d+ events? \(", shown)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--preset", "wekw"), "did you mean wekws"),
        (("--threshold", "1.5"), "threshold"),
        (("--seconds", "nan"), "--seconds nan"),
        (("--keep", "x", "--speaker", "a b"), "--speaker"),
    ],
)
def test_impossible_arguments_are_refused_in_a_line(
    arguments: tuple[str, ...], says: str, tones_run: Path, microphone_file: Environment,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in microphone_file(recording()).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert cli.main(["listen", str(tones_run), *arguments]) == cli.USAGE
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert says in line


@pytest.mark.slow
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    tones_run: Path, microphone_file: Environment, kws: Kws
) -> None:
    done = kws("listen", tones_run, "--device", "telescope", env=microphone_file(recording(), name="desk"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert re.search(r"--device telescope.*\d+ \(desk\)", done.stderr)
