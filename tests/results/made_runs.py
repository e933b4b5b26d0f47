"""Run folders made by hand, for the tests of results: events, an evaluation, a whole folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kws.metrics import confusion_matrix, summarise_confusion

HOSTILE = "<img src=x onerror=alert(1)>"
Row = dict[str, Any]


def start(attempt: int, step: int, epoch: int = 0, time: float = 0) -> Row:
    return {"event": "start", "time": time, "attempt": attempt, "epoch": epoch, "step": step, "world_size": 2}


def step(number: int, loss: float = 1.0, time: float = 0) -> Row:
    row = {"event": "step", "time": time, "epoch": number // 10, "step": number, "loss": loss, "accuracy": 0.5}
    return row | {"lr": 1e-3, "clips_per_s": 700.0, "data_wait": 0.02}


def epoch(number: int, at: int, valid: float = 0.5, time: float = 0) -> Row:
    row = {"event": "epoch", "time": time, "epoch": number, "step": at, "train_loss": 1.0, "train_accuracy": 0.5}
    return row | {"valid_loss": 1.1, "valid_accuracy": valid, "lr": 1e-3, "seconds": 9.0, "clips_per_s": 700.0}


def timed(row: Row, **parts: float) -> Row:
    """The event with the seconds of the parts of a step."""
    return row | {"parts": parts}


def rank_times(at: int, steps: int, **seconds: list[float]) -> Row:
    """The times of several ranks, part by part."""
    return {"event": "ranks", "time": 0, "step": at, "steps": steps, "seconds": seconds}


def straggler(at: int, rank: int, steps: int, slow: bool = True, host: str = HOSTILE) -> Row:
    row = {"event": "straggler", "time": 0, "step": at, "rank": rank, "host": host, "slow": slow, "steps": steps}
    return row | {"ratio": 1.4, "part": "data", "wait": 0.2}


def write_lines(path: Path, rows: list[Row], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def result_of(words: list[str], seed: int = 0) -> Row:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, len(words), 40 * len(words))
    wrong = np.where(rng.random(truth.size) < 0.1, (truth + 1) % len(words), truth)
    extra = {"split": "test", "loss": 0.3, "top5": 0.99, "checkpoint": "best", "network": "net", "epoch": 3, "step": 30}
    return summarise_confusion(confusion_matrix(truth, wrong, len(words)), words) | extra


def png_size(data: bytes) -> tuple[int, int]:
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def fill(run: Path, words: list[str]) -> None:
    """Writes the files of a run with two attempts and two evaluations, in which names are hostile to HTML."""
    ranks = [{"rank": 0, "host": HOSTILE, "device": "cpu", "slots": "0-3"}, {"rank": 1, "host": "h2", "pid": 7}]
    facts = {"versions": {"numpy": "2.4"}, "hardware": {"cpu": HOSTILE}, "ranks": ranks, "network": HOSTILE}
    (run / "run.json").write_text(json.dumps(facts | {"parameters": 93000, "corpus_id": HOSTILE}))
    (run / "status.json").write_text(json.dumps({"state": HOSTILE, "code": 0, "step": 20}))
    rows = [start(1, 0), *(step(n, time=n) for n in range(1, 15)), epoch(0, 10, time=12)]
    rows += [start(2, 10, 1, time=100), step(20, time=130), epoch(1, 20, 0.875, time=131)]
    rows = [timed(row, data=0.1, forward=0.3, backward=0.6) if row["event"] == "step" else row for row in rows]
    rows += [rank_times(20, 10, data=[0.1, 0.9], backward=[1.0, 1.0], all_reduce=[0.8, 0.0]), straggler(20, 1, 10)]
    rows = [row | {"time": 131} if row["event"] in ("ranks", "straggler") else row for row in rows]
    write_lines(run / "metrics.jsonl", [*rows, {"event": "end", "time": 132, "step": 20, "state": "finished"}], "{")
    for split in ("valid", "test"):
        (run / "eval" / f"{split}.json").write_text(json.dumps(result_of(words) | {"split": split}))
    (run / "eval" / "half.json").write_text('{"classes": ["a"')
