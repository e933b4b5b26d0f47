"""The cost of kws compared with a plain PyTorch loop, the cost of a checkpoint, and the gain of a second process.

    python benchmarks/overhead.py [--quick] [--data DIR] [--model NAME]

- overhead   steps of kws (plan, stream, slots, running statistics, flags) and of a plain loop (the same network, the
             same clips ready in memory, the same front end, cross entropy, backward pass, optimizer), alternating in
             one process with one thread; medians are compared. Target: 3 %. The same for reduction = "exact".
             Measured as in the second epoch: each clip has been read and checked before (stream.py measures that).
- stall      how long a save delays training (it takes a snapshot; a thread writes it), in steps. Target: 1.
- processes  clips/s of `kws train` with two processes and with one, one thread each.

Without --data the clips are noise.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from kws.audio import codec
from kws.audio.augment import AugmentationChain
from kws.audio.features import Features
from kws.config import Config, DataConfig, ModelConfig, TrainConfig
from kws.data.reader import Reader, read_noise
from kws.data.stream import Batch, SlotReader, stream_batches
from kws.data.training_set import TrainingSet
from kws.distributed import process_group
from kws.distributed.ranks import Ranks
from kws.models import registry
from kws.packing import pack
from kws.run.checkpoint import Checkpoints
from kws.run.saver import Saver
from kws.training.optim import build_optimizer
from kws.training.step import PlannedStep, Stepper, Votes

SLOTS, MICRO = 4, 32


def settings(shards: Path, model: str, reduction: str) -> Config:
    """Settings for steps of 128 clips in four slots."""
    train = TrainConfig(
        global_batch=SLOTS * MICRO, micro_batch=MICRO, device="cpu", threads=1, reduction=reduction, epochs=1000
    )
    return Config(data=DataConfig(shards=str(shards), workers=0), model=ModelConfig(name=model), train=train)


def clips(folder: Path, count: int) -> Path:
    """A packed corpus of one-second noise clips with ten words."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "wav" / f"word{number % 10}" / f"{number % 60:08x}_nohash_{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(codec.wav_bytes((rng.standard_normal(16000) * 2000).astype(np.int16)))
    return pack.pack([folder / "wav"], folder / "shards")[0].root


class Harness:
    """Runs the steps of `kws train`."""

    def __init__(self, config: Config, here: Ranks) -> None:
        self.training_set, self.features = TrainingSet(config), Features(config.frontend.features)
        torch.manual_seed(0)
        shape = self.features.shape(self.training_set.samples)
        self.network = registry.build_model(config.model.name, len(self.training_set.task.classes), shape)
        self.optimizer = build_optimizer(self.network, config.train)
        self.stepper = Stepper(self.training_set, self.network, self.features, self.optimizer, here)
        self.batches, self.number = self._batches(), 0

    def _batches(self) -> Iterator[Batch]:
        training_set, data = self.training_set, self.training_set.config.data
        reader, plan = (
            SlotReader(
                Reader(training_set.index, "train", data.verify),
                training_set.task.class_of,
                training_set.excerpt,
                training_set.read_samples,
            ),
            training_set.plan(0),
        )
        for slot in plan.rank_slots(0, 1):
            reader.batch(slot)
        while True:
            yield from stream_batches(lambda: plan.rank_slots(0, 1), reader)

    def step(self) -> None:
        """Runs one step."""
        planned = PlannedStep(self.number, 0, SLOTS * MICRO, last=False)
        self.stepper.step(planned, self.batches, Votes())
        self.number += 1


class Bare:
    """Runs the steps of a plain PyTorch loop."""

    def __init__(self, config: Config) -> None:
        training_set, self.features = TrainingSet(config), Features(config.frontend.features)
        torch.manual_seed(0)
        shape = self.features.shape(training_set.samples)
        self.network = registry.build_model(config.model.name, len(training_set.task.classes), shape).train()
        self.optimizer = build_optimizer(self.network, config.train)
        noises = read_noise(training_set.index, "train")
        self.chain = AugmentationChain(
            config.frontend, self.features, 0, noises, training_set.samples, torch.device("cpu")
        )
        reader = SlotReader(
            Reader(training_set.index, "train", "never"),
            training_set.task.class_of,
            training_set.excerpt,
            training_set.read_samples,
        )
        self.ready = itertools.cycle(
            [reader.batch(slot) for slot in itertools.islice(training_set.plan(0).rank_slots(0, 1), 64)]
        )

    def step(self) -> None:
        """Runs one step."""
        self.optimizer.zero_grad(set_to_none=False)
        for batch in itertools.islice(self.ready, SLOTS):
            with torch.no_grad():
                inputs = self.chain(batch.wave, batch.lengths.numpy(), batch.draws.numpy(), 0)
            loss = torch.nn.functional.cross_entropy(self.network(inputs), batch.labels, reduction="sum")
            (loss / (SLOTS * MICRO)).backward()
        self.optimizer.step()


def seconds_a_step(config: Config, here: Ranks, rounds: int) -> dict[str, float]:
    """Median seconds per step of the plain loop and of kws with both reductions, alternating."""
    exact = dataclasses.replace(config, train=dataclasses.replace(config.train, reduction="exact"))
    ways = {"bare": Bare(config), "fast": Harness(config, here), "exact": Harness(exact, here)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):  # the first two rounds warm up
        for name in sorted(ways, key=lambda name: (number + len(name)) % 3):
            start = time.perf_counter()
            ways[name].step()
            found[name].append(time.perf_counter() - start)
    return {name: median(values[2:]) for name, values in found.items()}


def seconds_a_save(config: Config, here: Ranks, folder: Path, rounds: int) -> float:
    """Median seconds that a step waits for a checkpoint."""
    harness, saver = Harness(config, here), Saver(Checkpoints(folder))
    harness.step()
    found = []
    for number in range(rounds):
        start = time.perf_counter()
        state = {"step": number, "best": []}
        saver.save(f"step-{number:08d}", state, harness.network.state_dict(), harness.stepper.state_dict(), None)
        found.append(time.perf_counter() - start)
        saver.wait()  # usually done by the steps between two saves
    return median(found)


def clips_per_s(shards: Path, model: str, ranks: int, folder: Path, epochs: int) -> float:
    """Clips/s in the last epoch of `kws train` with this number of processes."""
    run = folder / f"run{ranks}"
    changes = {
        "data.shards": f'"{shards}"', "data.workers": "0", "model.name": model, "train.epochs": str(epochs),
        "train.global_batch": str(SLOTS * MICRO), "train.micro_batch": str(MICRO), "train.device": "cpu",
        "train.threads": "1",
    }  # fmt: skip
    config = folder / "config.toml"
    config.write_text("")
    words = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "-m",
        "--",
    ]
    command = [*launcher, "kws", "train", str(config), "--run", str(run), *words]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float([row for row in rows if row["event"] == "epoch"][-1]["clips_per_s"])


def main() -> None:
    """Prints a table, and as the last line one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: noise")
    parser.add_argument("--model", default="matchboxnet_3x2x64", help="default matchboxnet_3x2x64")
    parser.add_argument("--quick", action="store_true", help="fewer steps: under a minute")
    arguments = parser.parse_args()
    rounds, count, epochs = (9, 400, 1) if arguments.quick else (41, 3000, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = (arguments.data or clips(folder, count)).resolve()
        config = settings(shards, arguments.model, "fast")
        with process_group.start(config.train) as here:
            steps = seconds_a_step(config, here, rounds)
            save = seconds_a_save(config, here, folder / "saves", 3 if arguments.quick else 9)
        one, two = (clips_per_s(shards, arguments.model, ranks, folder, epochs) for ranks in (1, 2))
    facts = {
        "overhead": steps["fast"] / steps["bare"] - 1.0,
        "overhead_exact": steps["exact"] / steps["bare"] - 1.0,
        "checkpoint_stall_steps": save / steps["fast"],
        "two_processes": two / one,
        "ms_a_step": {name: 1000.0 * value for name, value in steps.items()},
        "clips_per_s": {"1": one, "2": two},
    }
    table = Table("", "", title=f"{arguments.model}, steps of {SLOTS} x {MICRO} clips, one thread")
    table.add_row("a step of the bare loop", f"{1000 * steps['bare']:.1f} ms")
    table.add_row("a step of the harness, fast", f"{1000 * steps['fast']:.1f} ms ({facts['overhead']:+.1%}; bar 3 %)")
    table.add_row("a step of the harness, exact", f"{1000 * steps['exact']:.1f} ms ({facts['overhead_exact']:+.1%})")
    table.add_row("a save", f"{1000 * save:.1f} ms ({facts['checkpoint_stall_steps']:.2f} steps; bar 1)")
    table.add_row("kws train, one process, two", f"{one:,.0f}, {two:,.0f} clips/s ({two / one:.2f} x)")
    Console().print(table)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
