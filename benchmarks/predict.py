"""`kws predict` on 2,000 files against the network's own speed.

    python benchmarks/predict.py [--quick] [--data DIR] [--model NAME]

In one process with one torch thread, on the same clips:

- network    features and network on batches of 64 that lie ready in memory: the limit
- predict    files in, words out, as `kws predict` does it: decoding threads ahead of the network
- one by one a file read, decoded and put through the network, then the next

Rounds take turns, and the middle one of each counts: speed, and processor time of all threads together. For 16 kHz WAV,
and for files that take real decoding (FLAC at 44.1 kHz). The weights are fresh: they cost as much as trained ones.
Without --data the clips are noise.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
import soxr
import torch
from rich.console import Console
from rich.table import Table

from kws.audio import codec
from kws.config import Config, ModelConfig
from kws.corpus import tasks
from kws.data import index
from kws.data.reader import Reader
from kws.evaluation.predict import BATCH, Recognizer
from kws.evaluation.trained import Trained
from kws.machine import keep_freed_memory
from kws.models import registry
from kws.run.checkpoint import Checkpoint, Checkpoints

CPU = torch.device("cpu")


def clips_of(folder: Path | None, count: int) -> list[codec.Pcm]:
    """Clips spread over a corpus's test split, or seconds of noise."""
    if folder is None:
        rng = np.random.default_rng(0)
        return [(rng.standard_normal(16000) * 3000).astype(np.int16) for _ in range(count)]
    corpus = index.load(folder)
    reader = Reader(corpus, "test")
    return [reader.read(int(row)) for row in np.linspace(0, len(corpus.split("test")) - 1, count).astype(int)]


def write(clips: list[codec.Pcm], folder: Path, ending: str) -> list[Path]:
    """The clips as files of that kind."""
    folder.mkdir()
    paths = []
    for number, clip in enumerate(clips):
        path = folder / f"{number:05}.{ending}"
        if ending == "wav":
            path.write_bytes(codec.wav_bytes(clip))
        else:
            data = io.BytesIO()
            soundfile.write(data, soxr.resample(clip.astype(np.float32) / 32768, 16000, 44100), 44100, format="FLAC")
            path.write_bytes(data.getvalue())
        paths.append(path)
    return paths


def recognizer_of(model: str, folder: Path) -> tuple[Recognizer, Trained]:
    """A network with fresh weights, as a checkpoint has it."""
    config = Config(model=ModelConfig(name=model))
    network = registry.build_model(model, 35, (1, 40, 101))
    words = [f"word{number}" for number in range(35)]
    state = {"task": tasks.words_task(words).tree(), "words": words}
    path = Checkpoints(folder).save(network.state_dict(), {}, state, "step-00000000")
    trained = Trained(config, Checkpoint(path, state), CPU)
    return Recognizer(trained), trained


def network_alone(trained: Trained, clips: list[codec.Pcm]) -> Callable[[], None]:
    """The limit: no file, no decoding, no copying."""
    rows = [np.pad(clip[:16000], (0, 16000 - len(clip[:16000]))) for clip in clips]
    ready = [torch.from_numpy(np.stack(rows[at : at + BATCH])) for at in range(0, len(rows), BATCH)]

    def run() -> None:
        with torch.inference_mode():
            for wave in ready:
                trained.network(trained.features(wave)).softmax(dim=1)

    return run


def measure(ways: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """Files a second, and microseconds of processor time a file, of each way (function, files of a call): the middle
    rounds. The second is what other programs on the machine disturb less."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds + 1):  # the first warms up
        for name, (way, files) in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way()
            seconds, used = time.perf_counter() - start, time.process_time() - used
            found[name].append((files / seconds, 1e6 * used / files))
    return {name: tuple(map(median, zip(*values[1:], strict=True))) for name, values in found.items()}


def main() -> None:
    """Prints a table, and last one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a packed corpus; default: clips of noise")
    parser.add_argument("--model", default="tc_resnet8", help="default tc_resnet8, one of the fastest there are")
    parser.add_argument("--quick", action="store_true", help="fewer files, fewer rounds: under a minute")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    count, rounds = (500, 3) if arguments.quick else (2000, 7)
    clips = clips_of(arguments.data, count)
    with tempfile.TemporaryDirectory() as name:
        recognizer, trained = recognizer_of(arguments.model, Path(name))
        wav, flac = (write(clips, Path(name) / ending, ending) for ending in ("wav", "flac"))
        few = count // 8
        found = measure({
            "network": (network_alone(trained, clips), count),
            "predict wav": (lambda: list(recognizer.files(wav, [])), count),
            "predict flac": (lambda: list(recognizer.files(flac, [])), count),
            "one by one wav": (lambda: [recognizer(codec.decode(path.read_bytes())) for path in wav[:few]], few),
            "one by one flac": (lambda: [recognizer(codec.decode(path.read_bytes())) for path in flac[:few]], few),
        }, rounds)  # fmt: skip
    speed, used = ({name: pair[part] for name, pair in found.items()} for part in (0, 1))
    table = Table(
        "way",
        "files/s",
        "of the network's own",
        "CPU us a file",
        title=f"{count} files, {arguments.model}, one torch thread",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for way in found:
        table.add_row(way, f"{speed[way]:,.0f}", f"{speed[way] / speed['network']:.2f} x", f"{used[way]:,.0f}")
    Console().print(table)
    print(json.dumps({
        "files": count,
        "network_clips_per_s": speed["network"],
        "ratio_network": speed["predict wav"] / speed["network"],
        "ratio_network_cpu": used["network"] / used["predict wav"],
        "ratio_network_flac": speed["predict flac"] / speed["network"],
        "ratio_one_by_one": speed["predict wav"] / speed["one by one wav"],
        "files_per_s": speed,
        "cpu_us_a_file": used,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
