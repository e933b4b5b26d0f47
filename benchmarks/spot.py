"""What scores of continuous audio cost, as a share of one core, and how far they are from the offline network.

    python benchmarks/spot.py [--quick] [--data DIR] [--run RUN]

In one process with one torch thread, for a sliding window every 100 ms and for streaming networks:

- live       samples come in chunks of 100 ms, as from a microphone: the latency is small, the batches are too
- recording  samples come in chunks of 10 s, as from a file: 16 windows at once, or all frames of the chunk

A share is processor time divided by the length of the audio: 1 % means 100 x real time. The rows are measured in
alternating rounds, and the median round of each counts. Before that, their scores are compared: with the network on
windows that are cut out as clips, and with the streaming network on the whole recording at once.

Targets: a sliding window, live, at most 5 %; a streaming network on a recording at most 0.5 %; recordings at least 100
x real time; differences at most 1e-5. Without --data the recording is noise in which clips of other noise lie; without
--run the networks have random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the references in tests/

from kws import settings_file
from kws.audio.codec import SAMPLE_RATE_HZ, Pcm
from kws.audio.features import Features
from kws.config import Config, DataConfig, FrontEndConfig, ModelConfig
from kws.corpus import tasks
from kws.data import index
from kws.data.excerpt import Excerpt
from kws.data.reader import Reader
from kws.evaluation.trained import Trained
from kws.machine import keep_freed_memory
from kws.models import registry
from kws.models.cost import count_parameters
from kws.run.checkpoint import Checkpoint, Checkpoints
from kws.streaming.network import can_stream
from kws.streaming.scorers import Form, make_scorer
from kws.streaming.scores import joined
from tests.streaming.references import at_once, by_windows

CPU = torch.device("cpu")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"
WINDOW_NETWORKS = ("matchboxnet_3x2x64", "tc_resnet8")
STREAM_NETWORKS = ("mixednet", "tc_resnet8_causal", "ds_tc_resnet_causal", "matchboxnet_3x1x64_causal")
LIVE, RECORDING = SAMPLE_RATE_HZ // 10, 10 * SAMPLE_RATE_HZ
WORDS = [f"word{number}" for number in range(10)]


class Row(NamedTuple):
    """What is measured: a network, and how its scores are computed."""

    name: str
    trained: Trained
    form: Form

    def score(self, pcm: Pcm, chunk: int) -> tuple[float, Any]:
        """Seconds of processor time for the recording in chunks of `chunk` samples, and the scores."""
        scorer = make_scorer(self.trained, self.form)
        started = time.process_time()
        parts = [scorer.push(pcm[at : at + chunk]) for at in range(0, len(pcm), chunk)]
        return time.process_time() - started, joined([*parts, scorer.finish()])

    def difference(self, pcm: Pcm) -> float:
        """The largest difference of a probability from the reference."""
        reference = by_windows if self.form == "window" else at_once
        found = self.score(pcm, LIVE)[1]
        return float(np.abs(found.probabilities - reference(self.trained, pcm, found.times)).max())


# --- the recording and the networks ---------------------------------------------------------------------------


def recording(folder: Path | None, seconds: int) -> Pcm:
    """Clips of the corpus's test split, or of noise, one every 1.5 s, on quiet noise: int16 (T,)."""
    rng = np.random.default_rng(0)
    found = rng.standard_normal(seconds * SAMPLE_RATE_HZ) * 30
    reader = Reader(index.load(folder), "test") if folder else None
    count = len(index.load(folder).split("test")) if folder else 0
    for number, start in enumerate(range(0, len(found) - SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * 3 // 2)):
        loud = rng.standard_normal(SAMPLE_RATE_HZ) * 10 ** rng.uniform(1, 4)
        clip = reader.read(number * 7919 % count)[:SAMPLE_RATE_HZ] if reader else loud
        found[start : start + len(clip)] += clip
    return found.clip(-32768, 32767).astype(np.int16)


def with_random_weights(model: str, folder: Path) -> Trained:
    """A network as loaded from a checkpoint, with the features and the clip length of its config."""
    config = settings_file.load(CONFIGS / f"{model}.toml")
    seconds = 1.0 if config.data.clip_seconds == "auto" else config.data.clip_seconds
    config = Config(
        data=DataConfig(clip_seconds=seconds), model=ModelConfig(name=model),
        frontend=FrontEndConfig(features=config.frontend.features),
    )  # fmt: skip
    torch.manual_seed(0)
    shape = Features(config.frontend.features).shape(Excerpt.from_config(config.data).samples)
    network = registry.build_model(model, len(WORDS), shape)
    state = {"task": tasks.words_task(WORDS).tree(), "words": WORDS}
    path = Checkpoints(folder / model).save(network.state_dict(), {}, state, "step-00000000")
    return Trained(config, Checkpoint(path, state), CPU)


def rows_of(run: Path | None, folder: Path) -> list[Row]:
    """The networks to be measured."""
    if run is None:
        rows = [Row(name, with_random_weights(name, folder), "window") for name in WINDOW_NETWORKS]
        return rows + [Row(name, with_random_weights(name, folder), "stream") for name in STREAM_NETWORKS]
    trained = Trained.from_run(run, "best_accuracy", CPU)
    name = trained.config.model.name
    return [Row(name, trained, "window"), *([Row(name, trained, "stream")] if can_stream(trained) else [])]


# --- measuring ------------------------------------------------------------------------------------------------


def shares(rows: list[Row], pcm: Pcm, rounds: int) -> list[tuple[float, float]]:
    """Shares of one core of each row, live and on a recording."""
    seconds = len(pcm) / SAMPLE_RATE_HZ
    found: list[list[tuple[float, float]]] = [[] for _ in rows]
    for _ in range(rounds + 1):  # the first round warms up
        for row, values in zip(rows, found, strict=True):
            values.append(tuple(row.score(pcm, chunk)[0] / seconds for chunk in (LIVE, RECORDING)))  # type: ignore[arg-type]
    return [(median(live for live, _ in values[1:]), median(file for _, file in values[1:])) for values in found]


def show(rows: list[Row], costs: list[tuple[float, float]], differences: list[float]) -> None:
    """Prints the table."""
    table = Table("network", "parameters", "scores", "live", "recording", "x real time", "difference")
    for column in (table.columns[1], *table.columns[3:]):
        column.justify = "right"
    for row, (live, file), apart in zip(rows, costs, differences, strict=True):
        step = f"{row.form}, every {1000 * make_scorer(row.trained, row.form).step_s:g} ms"
        table.add_row(
            row.name, f"{count_parameters(row.trained.network):,}", step, f"{live:.2%}", f"{file:.2%}",
            f"{1 / file:,.0f}", f"{apart:.1e}",
        )  # fmt: skip
    table.caption = (
        "shares of one core; bars: window live 5 %, stream on a recording 0.5 %, 100 x real time, difference 1e-5; "
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    Console(width=120).print(table)


def largest(rows: list[Row], values: list[float], form: Form) -> float | None:
    """The largest value of the rows of this form; None where there is none."""
    return max((value for row, value in zip(rows, values, strict=True) if row.form == form), default=None)


def main() -> None:
    """Prints a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: noise")
    parser.add_argument("--run", type=Path, help="a trained run instead of networks with random weights")
    parser.add_argument("--quick", action="store_true", help="a shorter recording, fewer rounds: under a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    seconds, rounds = (10, 2) if arguments.quick else (60, 7)
    pcm = recording(arguments.data, seconds)
    with tempfile.TemporaryDirectory() as name:
        rows = rows_of(arguments.run, Path(name))
        differences = [row.difference(pcm[: 10 * SAMPLE_RATE_HZ]) for row in rows]
        costs = shares(rows, pcm, rounds)
    show(rows, costs, differences)
    live, file = [cost[0] for cost in costs], [cost[1] for cost in costs]
    print(json.dumps({
        "realtime_window": largest(rows, live, "window"),
        "realtime_stream": largest(rows, file, "stream"),
        "max_difference": max(differences),
        "realtime_window_recording": largest(rows, file, "window"),
        "realtime_stream_live": largest(rows, live, "stream"),
        "rows": [
            {"network": row.name, "form": row.form, "live": cost[0], "recording": cost[1], "difference": apart}
            for row, cost, apart in zip(rows, costs, differences, strict=True)
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
